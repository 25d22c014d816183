-- The one door into an organization's control state: claims a message, settles its version, and commits it, in one step.
--
-- KEYS  meta log workflows changed open keys claim
-- ARGV  see broker/store/apply.py, which names every one of them in this order.
-- Reply {status, version, seq, ms, epoch, message_id, previous state or "", brokers that heard it}

local names = {meta = KEYS[1], log = KEYS[2], workflows = KEYS[3], changed = KEYS[4], open = KEYS[5],
  receipt = ARGV[1], live = ARGV[2]}
local org_keys, claim = KEYS[6], KEYS[7]
local organization, mode, claimant, since, serial, digest = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7], ARGV[8]
local kind, workflow, state, wanted, forced, wants_ack = ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13], ARGV[14] == '1'
local heard_at = tonumber(ARGV[24]) or math.huge -- by the clock of this server
local vouched = ARGV[25] == '1' -- the claimant has sessions of this organization
local after = tonumber(ARGV[26]) -- by the same clock: it was published then or later; nil if nobody knows
local generation = ARGV[27] -- which of the claimant's subscriptions has heard it
local head, reason, time, actor, message_id = ARGV[15], ARGV[16], ARGV[17], ARGV[18], ARGV[19]

local MAX_BROUGHT_VERSION = 4503599627370496 -- 2^52: leaves room to count on from whatever a publisher brings
local WINDOW = 10000 -- ms for which a broker that has just begun to listen may have missed what is applied
local PROMPT = 250 -- ms within which a publication that was applied elsewhere has been heard here
local KEPT = 64 -- times of application that are remembered per payload
local CLAIMANTS = 256 -- claimants that are remembered per payload: one for each broker

local function reply(status, version, book, previous, heard)
  return {status, int(version), book and int(book.seq) or '0', book and int(book.ms) or '0',
    book and book.epoch or '', message_id, previous or '', heard or 0}
end

local plain = mode ~= 'once'
if plain and not vouched and redis.call('SCARD', org_keys) == 0 then
  return reply('no_key', 0)
end

local now = now_ms()
local book = open_book(names, ARGV[20], now, ARGV[21], ARGV[22], ARGV[23])
local n, presented, doubtful, unknown

-- Remembers what came of a claim, last of all: a step that failed has claimed nothing and may be tried again.
local function settle(answer)
  if kind == 'state_change' and wants_ack then
    pass_when_out_of_memory(names) -- also of a duplicate: who may not present one is stuck with it
  end
  if mode == 'payload' then
    redis.call('HSET', claim, 'b:' .. claimant, int(presented) .. ' ' .. generation, 's:' .. claimant, serial)
    if unknown then
      -- A payload that is published again and again never expires, and brokers come and go for months. One that is
      -- forgotten while it lives begins anew: from what was applied since it listens, and before this was published.
      local number = redis.call('HINCRBY', claim, 'c', 1)
      local oldest = redis.call('HGET', claim, 'c:' .. int(number - CLAIMANTS))
      redis.call('HSET', claim, 'c:' .. int(number), claimant)
      if oldest then
        redis.call('HDEL', claim, 'c:' .. int(number - CLAIMANTS), 'b:' .. oldest, 's:' .. oldest)
      end
    end
    if presented > n then
      redis.call('HSET', claim, 'n', int(presented), 'at:' .. int(presented), int(now))
      redis.call('HDEL', claim, 'at:' .. int(presented - KEPT))
    end
    redis.call('PEXPIRE', claim, int(book.retention))
  else
    redis.call('SET', claim, table.concat(answer, ' ', 1, 7), 'PX', int(book.retention))
  end
  return answer
end

if mode == 'payload' then
  -- Every broker hears every publication, so the k-th that one of them presents is the k-th that was published; the
  -- first to present it applies it. A broker that began to listen at `since` starts from what was applied before that,
  -- and one that listened before from what it has presented of that time, however late it did.
  local counts = redis.call('HMGET', claim, 'n', 'b:' .. claimant, 's:' .. claimant)
  if serial ~= '' and counts[3] == serial then
    return reply('duplicate', 0) -- the same presentation again: its first answer was lost on the way
  end
  local former, listened = string.match(counts[2] or '', '^(%d+) (%d+)$')
  n, presented = tonumber(counts[1] or '0'), tonumber(former or '-1')
  unknown = not former
  if listened ~= generation then
    presented = n
    for i = n, math.max(1, n - KEPT + 1), -1 do
      if tonumber(redis.call('HGET', claim, 'at:' .. int(i)) or '0') < since then
        break
      end
      presented = i - 1
    end
    presented = math.max(presented, tonumber(former or '0'))
  end
  presented = presented + 1
  -- What was applied before this one was published is not this one: whoever has missed a publication is not behind for
  -- ever. The moment of publication counts, not that of presentation, which may be late by as long as a broker stood
  -- still: then it would be applied again, over all that was decided since.
  for i = math.max(presented, n - KEPT + 1), n do
    local at = tonumber(redis.call('HGET', claim, 'at:' .. int(i)) or '')
    if not (after and at and at < after) then
      break
    end
    presented = i + 1
  end
  if presented <= n then
    -- One that began to listen just before an application may have missed that publication, and be presenting the next.
    -- Then a Killed or Paused that is not in force is applied: better twice than never. But whoever heard it before the
    -- application, or right after it, heard the very publication that was applied, and presents it late.
    local at = tonumber(redis.call('HGET', claim, 'at:' .. int(presented)) or '0')
    doubtful = kind == 'state_change' and wants_ack and since + WINDOW > at and heard_at > at + PROMPT
    if not doubtful then
      return settle(reply('duplicate', 0))
    end
  end
else
  local earlier = redis.call('GET', claim)
  if earlier then
    local status, version, seq, ms, epoch, id, previous = string.match(earlier,
      '^(%S+) (%S+) (%S+) (%S+) (%S*) (%S+) (%S*)$')
    return {plain and 'duplicate' or status, version, seq, ms, epoch, id, previous, 0}
  end
end

local updated_at = time ~= '' and time or int(math.floor(now / 1000))
if message_id == '' then
  message_id = string.sub(digest, 1, 16) .. '-' .. string.sub(book.epoch, 1, 6) .. '-' .. int(book.seq + 1)
end

if kind ~= 'state_change' then
  if kind == 'key_rotated' and not plain then
    pass_when_out_of_memory(names) -- a key is revoked just then, too
  end
  if wants_ack then
    message_id = free_message_id(book, message_id)
  end
  local message = head .. (time == '-' and '' or updated_at) .. ',"message_id":"' .. message_id .. '"}'
  append(book, kind, message, actor)
  if wants_ack then
    open_receipt(book, message_id, kind, workflow, '', '0', actor)
  end
  return settle(reply('applied', 0, book, '', publish(book, message)))
end

local version, previous, changed_at, lifted = stored_state(names, workflow)
-- Claims are forgotten, and then whoever presents later than that cannot be told that it was applied. But where nothing
-- has changed since it was published it was not, and is applied, however late. Where something has, that was this very
-- publication or a newer decision, which stands; except against a Killed of a workflow on which force was never used,
-- since that one would still be in force.
local late = plain and after and now - after >= book.retention and changed_at >= after
if late and not (state == 'Killed' and previous ~= 'Killed' and lifted == 0) then
  return settle(reply('late', version, book, previous))
end
if doubtful and previous == state then
  return settle(reply('duplicate', version, book, previous))
end
if previous == 'Killed' and state ~= 'Killed' then
  if forced ~= '1' then
    return settle(reply('terminal', version, book, previous))
  end
  lifted = version
end
local brought = tonumber(wanted)
if brought and not (brought > version and brought <= MAX_BROUGHT_VERSION) then
  if not wants_ack then
    return settle(reply('stale', version, book, previous))
  end
  brought = nil
end
version = brought or version + 1

local change = {workflow = workflow, state = state, version = int(version), reason = reason, updated_at = updated_at,
  message_id = message_id, actor = actor, wants_ack = wants_ack, lifted = lifted}
local heard = commit_state(book, organization, change)
message_id = change.message_id
return settle(reply('applied', version, book, previous, heard))
