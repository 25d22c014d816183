-- The entries after a position, and whether the log still holds that position.
-- KEYS meta log; ARGV the id to read from ("-" for the beginning), count
-- Reply {epoch or "", seq, ms, entries, "1" if the position's own entry is gone though an older one is there, capped}

local meta = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'ms', 'capped')
local entries = redis.call('XRANGE', KEYS[2], ARGV[1], '+', 'COUNT', ARGV[2])
local rewritten = '0'
if ARGV[1] ~= '-' and not (entries[1] and entries[1][1] == ARGV[1]) then
  local older = redis.call('XREVRANGE', KEYS[2], ARGV[1], '-', 'COUNT', 1)
  if older[1] then
    rewritten = '1'
  end
end
return {meta[1] or '', meta[2] or '0', meta[3] or '0', entries, rewritten, meta[4] or '0'}
