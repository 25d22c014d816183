-- Gives a store that lost something back what a broker knows. A broker calls it when it finds another epoch than its
-- own, or less than it has seen. What the store and the broker agree on is left alone.
--
-- KEYS  meta log workflows changed open
-- ARGV  receipt key prefix, live channel, organization, new epoch, retention, max entries, receipt ttl,
--       known epoch, known seq, known ms, "1" or "0" if an earlier call of this restore has told whether the history
--       is the same and else "", then for each known workflow:
--       workflow_id, version, state, reason, updated_at, message_id, actor, ms of the change
-- Reply {epoch, seq, ms, "1" if the history is the same, "1" if a new epoch was begun, workflow_ids that were changed}

local names = {meta = KEYS[1], log = KEYS[2], workflows = KEYS[3], changed = KEYS[4], open = KEYS[5],
  receipt = ARGV[1], live = ARGV[2]}
local organization, candidate = ARGV[3], ARGV[4]
local known_epoch, known_seq, known_id = ARGV[8], tonumber(ARGV[9]), ARGV[10] .. '-' .. ARGV[9]

local now = now_ms()
local stored_epoch = redis.call('HGET', names.meta, 'epoch')
local book = open_book(names, candidate, now, ARGV[5], ARGV[6], ARGV[7])

-- Whether the store's history is the one that the broker has seen, and goes on from there.
local function same_history()
  if known_epoch == '' then
    return true
  end
  if stored_epoch ~= known_epoch or book.seq < known_seq then
    return false
  end
  local own = redis.call('XRANGE', names.log, known_id, known_id)
  if own[1] then
    return true
  end
  -- Gone by trimming, or never there? Trimming takes the oldest: with an older one present it was never there.
  return not redis.call('XREVRANGE', names.log, known_id, '-', 'COUNT', 1)[1]
end

local same = ARGV[11] == '1' or (ARGV[11] == '' and same_history())
local renewed = false
local touched = {}

-- Positions of other brokers in the history that was lost must not pass for positions in this one.
local function renew()
  pass_when_out_of_memory(names) -- all of it was there before
  if same or renewed then
    return
  end
  if book.epoch ~= candidate then
    book.epoch = candidate
    redis.call('HSET', names.meta, 'epoch', candidate)
  end
  renewed = true
end

local function write_back(known)
  renew()
  local message = state_message(organization, known)
  append(book, 'state_change', message, known.actor)
  store_state(names, known, known.at)
  supersede(book, known.workflow, known.message_id)
  publish(book, message)
  touched[#touched + 1] = known.workflow
end

local function apply_again(change, above)
  renew()
  change.version = int(above + 1)
  change.message_id = string.sub(change.message_id, 1, 90) .. '~' .. string.sub(book.epoch, 1, 6) .. '-' ..
    int(book.seq + 1)
  change.wants_ack = change.state == 'Killed' or change.state == 'Paused'
  commit_state(book, organization, change)
  touched[#touched + 1] = change.workflow
end

-- A stored value as a change: its texts are taken over as they are. Inside JSON strings every quote has a backslash
-- before it, so that the first ,"message_id":" is the member.
local function reread(workflow, state, version, lifted, value)
  local head = int(version) .. ' ' .. state .. ' {"workflow_id":"' .. workflow .. '","state":"' .. state ..
    '","version":' .. int(version) .. ',"reason":'
  local rest = string.sub(value, #head + 1)
  local cut = string.find(rest, ',"message_id":"', 1, true)
  local reason, updated_at = string.match(string.sub(rest, 1, cut - 1), '^(.*),"updated_at":(%d+)$')
  local message_id, actor = string.match(string.sub(rest, cut), '^,"message_id":"([^"]*)","actor":(.*),"at":%d+}$')
  return {workflow = workflow, state = state, reason = reason, updated_at = updated_at, message_id = message_id,
    actor = actor, lifted = lifted}
end

for i = 12, #ARGV, 8 do
  local known = {workflow = ARGV[i], version = ARGV[i + 1], state = ARGV[i + 2], reason = ARGV[i + 3],
    updated_at = ARGV[i + 4], message_id = ARGV[i + 5], actor = ARGV[i + 6], at = tonumber(ARGV[i + 7]), lifted = 0}
  local known_version = tonumber(known.version)
  local version, state, at, lifted, value = stored_state(names, known.workflow)
  local was_killed = known.state == 'Killed' and state and state ~= 'Killed'
  known.lifted = lifted
  if not state then
    if known_version > 0 then
      write_back(known)
    end
  elseif was_killed and lifted < known_version and (version <= known_version or not same) then
    -- Whoever left Killed here did not know of it.
    if version < known_version and at <= known.at then
      write_back(known)
    else
      apply_again(known, math.max(version, known_version))
    end
  elseif version < known_version and at <= known.at then
    if state == 'Killed' and known.state ~= 'Killed' then
      known.lifted = known_version -- a forced resume, which a broker that knows only the Killed must not undo
    end
    write_back(known)
  elseif version <= known_version and not string.find(value, ',"message_id":"' .. known.message_id .. '"', 1, true) then
    -- Changed after the loss, under a version that clients would not take for newer.
    local later = at >= known.at and reread(known.workflow, state, version, lifted, value) or known
    apply_again(later, known_version)
  end
end

if not same and not renewed and stored_epoch == known_epoch then
  renew()
end

local now_meta = redis.call('HMGET', names.meta, 'epoch', 'ms')
return {now_meta[1] or '', int(book.seq), now_meta[2] or '0', same and '1' or '0', renewed and '1' or '0', touched}
