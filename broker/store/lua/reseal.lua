-- KEYS the key's hash; ARGV its current and previous secret as they were read, and as they should be ("" for none).
-- Replies 1, or 0 when they are not as they were read: a rotation came between.

for place, name in ipairs({'secret_key', 'previous_secret'}) do
  if (redis.call('HGET', KEYS[1], name) or '') ~= ARGV[place] then
    return 0
  end
end
for place, name in ipairs({'secret_key', 'previous_secret'}) do
  local wanted = ARGV[place + 2]
  if wanted == '' then
    redis.call('HDEL', KEYS[1], name)
  else
    redis.call('HSET', KEYS[1], name, wanted)
  end
end
return 1
