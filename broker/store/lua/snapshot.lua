-- All that a session must know of an organization, as of one moment.
-- KEYS meta workflows open; reply {epoch or "", seq, ms, now, capped, capped_at, workflows, open receipts}

local meta = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'ms', 'capped', 'capped_at')
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return {meta[1] or '', meta[2] or '0', meta[3] or '0', string.format('%.0f', now), meta[4] or '0', meta[5] or '0',
  redis.call('HGETALL', KEYS[2]), redis.call('HGETALL', KEYS[3])}
