-- Appends an event to its channel's history and publishes it with its offset, so that both have the same order.
-- KEYS history; ARGV channel, the event without its closing brace, how many are kept, ms until an idle history goes
-- Reply {subscribers that heard it, offset}

local offset = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'event', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {redis.call('PUBLISH', ARGV[1], ARGV[2] .. ',"offset":"' .. offset .. '"}'), offset}
