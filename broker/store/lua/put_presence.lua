-- Writes sessions into a broker's presence and keeps it alive, in one step: no presence is ever without an expiry.
-- KEYS presence; ARGV ms to live, then session_id and JSON of each session. Reply whether the presence was there before.

redis.call('HDEL', KEYS[1], '') -- a server that is out of memory lets a script go on that has written something
local there = redis.call('EXISTS', KEYS[1])
for i = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return there
