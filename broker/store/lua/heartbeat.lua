-- A broker says that it lives, by the server's clock; brokers that were silent for an hour are forgotten.
-- KEYS brokers; ARGV broker_id, JSON about it

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('HDEL', KEYS[1], '') -- a server that is out of memory lets a script go on that has written something
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now) .. ' ' .. ARGV[2])
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local at = tonumber(string.match(all[i + 1], '^%d+') or '0')
  if at < now - 3600000 then
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return string.format('%.0f', now)
