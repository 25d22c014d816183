-- KEYS the key's hash; ARGV actor. Replies "revoked", or "unknown". Never brings a hash to life.

local status = redis.call('HGET', KEYS[1], 'status')
if not status then
  return 'unknown'
end
if status ~= 'revoked' then
  redis.call('HDEL', KEYS[1], '') -- a server that is out of memory lets a script go on that has written something
  redis.call('HSET', KEYS[1], 'status', 'revoked', 'revoked_at', redis.call('TIME')[1], 'revoked_by', ARGV[1])
  redis.call('HINCRBY', KEYS[1], 'version', 1)
end
return 'revoked'
