-- Reads the events after an offset, if they are all there and not too many: nothing is read far beyond the bound.
-- KEYS history; ARGV offset, the bytes that their frames may have together
-- Reply {1, offset, event without its closing brace, offset, event, ...}; {0} if they are not all there, or too large

local first = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', 1)[1]
if not first or first[1] ~= ARGV[1] then return {0} end
local reply, room, last, count = {1}, tonumber(ARGV[2]), ARGV[1], 1
while true do
  local page = redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', count)
  for _, entry in ipairs(page) do
    last = entry[1]
    room = room - #entry[2][2] - #last - 23 -- ,"offset":""} and the head of a frame
    if room < 0 then return {0} end
    reply[#reply + 1] = last
    reply[#reply + 1] = entry[2][2]
  end
  if #page < count then return reply end
  count = math.min(2 * count, 128)
end
