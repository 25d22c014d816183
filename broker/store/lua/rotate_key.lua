-- KEYS the key's hash; ARGV the new secret, sealed; seconds of overlap; actor.
-- Replies "rotated", "revoked" or "unknown". The old secret is moved as it is stored: nobody need unseal it for that.

local found = redis.call('HMGET', KEYS[1], 'status', 'secret_key')
if not found[1] then
  return 'unknown'
end
if found[1] ~= 'active' then
  return found[1]
end
local now = tonumber(redis.call('TIME')[1])
local overlap = tonumber(ARGV[2])
redis.call('HSET', KEYS[1], 'secret_key', ARGV[1], 'previous_secret', found[2] or '',
  'previous_until', string.format('%.0f', overlap > 0 and now + overlap or 0), 'rotated_by', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'version', 1)
return 'rotated'
