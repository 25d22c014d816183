-- Who was sent a message, and what came back. Never brings an expired receipt to life.
-- A session's field is "<status> <key_id> <workflow_id or -> <broker_id> <elapsed ms or -> <diagnosis or ->".
--
-- KEYS the receipt
-- ARGV "deliver"     broker_id, then for each session: session_id, key_id, workflow_id or "-"
--      "acknowledge" session_id, received_at (the agent's unix seconds), tolerated skew in seconds
--      "mark"        session_id, status, diagnosis or "-"
-- Reply nil when the receipt is gone, else for "acknowledge" the ms since the message was issued, for others 0.

local receipt = KEYS[1]
local issued = redis.call('HGET', receipt, 'issued_at')
if not issued then
  return false
end
redis.call('HDEL', receipt, '') -- a server that is out of memory lets a script go on that has written something

local function read(session)
  local found = redis.call('HGET', receipt, 'session:' .. session)
  if not found then
    return {'pending', '-', '-', '-', '-', '-'}, false
  end
  return {string.match(found, '^(%S+) (%S+) (%S+) (%S+) (%S+) (.+)$')}, true
end

local function write(session, parts)
  redis.call('HSET', receipt, 'session:' .. session, table.concat(parts, ' '))
end

if ARGV[1] == 'deliver' then
  -- An acknowledgement may be written down before the delivery is: what is known of the session is filled in.
  local new = 0
  for i = 3, #ARGV, 3 do
    local parts, known = read(ARGV[i])
    if not known or parts[4] == '-' then
      new = new + 1
    end
    parts[2], parts[3], parts[4] = ARGV[i + 1], ARGV[i + 2], ARGV[2]
    write(ARGV[i], parts)
  end
  redis.call('HINCRBY', receipt, 'broker:' .. ARGV[2], new)
  return 0
end

local parts = read(ARGV[2])
if ARGV[1] == 'mark' then
  -- Notes may be written down in another order than they were made: "pending" replaces nothing that is final.
  if parts[1] ~= 'confirmed' and (ARGV[3] ~= 'pending' or parts[1] == 'pending') then
    parts[1] = ARGV[3]
    if ARGV[4] ~= '-' then
      parts[6] = ARGV[4]
    end
    write(ARGV[2], parts)
  end
  return 0
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if parts[1] ~= 'confirmed' then
  parts[1], parts[6] = 'confirmed', '-'
  parts[5] = string.format('%.0f', math.max(0, now - tonumber(issued)))
  local skew = tonumber(ARGV[3]) - now / 1000
  if math.abs(skew) > tonumber(ARGV[4]) then
    parts[6] = string.format('clock is off by %.0f s', skew)
  end
  write(ARGV[2], parts)
end
return tonumber(parts[5])
