-- One organization's control state: what every script that changes it shares.
-- Nothing here parses JSON. Messages are spliced from ready fragments, ids (which need no escaping by their grammar)
-- and integers. Integers are doubles in Lua, exact up to 2^53, and must be printed with %.0f: tostring() rounds them.

local DEFAULT_RETENTION, DEFAULT_MAX_ENTRIES, DEFAULT_RECEIPT_TTL = 3600000, 100000, 86400000

local function int(number)
  return string.format('%.0f', number)
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- The position of the log and the limits that brokers have set. Limits given by the caller are remembered for callers
-- that know none, so that a publisher never trims by another rule than the brokers.
local function open_book(names, candidate, now, retention, max_entries, receipt_ttl)
  local meta = redis.call('HMGET', names.meta, 'epoch', 'seq', 'ms', 'retention', 'max_entries', 'receipt_ttl')
  local function limit(given, stored, default)
    return tonumber(given) or tonumber(stored or '') or default
  end
  return {
    names = names,
    now = now,
    epoch = meta[1] or candidate,
    new_log = not meta[1],
    seq = tonumber(meta[2] or '0'),
    ms = math.max(tonumber(meta[3] or '0'), now),
    retention = limit(retention, meta[4], DEFAULT_RETENTION),
    max_entries = limit(max_entries, meta[5], DEFAULT_MAX_ENTRIES),
    receipt_ttl = limit(receipt_ttl, meta[6], DEFAULT_RECEIPT_TTL),
    limits_changed = (retention ~= '' and retention ~= meta[4]) or (max_entries ~= '' and max_entries ~= meta[5])
      or (receipt_ttl ~= '' and receipt_ttl ~= meta[6]),
  }
end

-- Takes the next place in the log. The XADD is the first write: a server that is out of memory refuses the first write
-- of a script or none, and so nothing is ever half done.
local function append(book, kind, message, actor)
  local names = book.names
  if book.new_log and redis.call('EXISTS', names.log) == 1 then
    -- Without its meta a log is nobody's: its ids could even lie in the future of a clock that was set back.
    redis.call('DEL', names.log)
  end
  book.new_log = false
  local seq, ms = book.seq + 1, int(book.ms)
  redis.call('XADD', names.log, 'MINID', '~', int(book.ms - book.retention), ms .. '-' .. int(seq),
    'seq', int(seq), 'type', kind, 'message', message, 'actor', actor)
  book.seq = seq
  redis.call('HSET', names.meta, 'epoch', book.epoch, 'seq', int(seq), 'ms', ms)
  if book.limits_changed then
    redis.call('HSET', names.meta, 'retention', int(book.retention), 'max_entries', int(book.max_entries),
      'receipt_ttl', int(book.receipt_ttl))
    book.limits_changed = false
  end
  if redis.call('XLEN', names.log) > book.max_entries then
    local cut = redis.call('XTRIM', names.log, 'MAXLEN', int(book.max_entries))
    redis.call('HINCRBY', names.meta, 'capped', cut)
    redis.call('HSET', names.meta, 'capped_at', ms)
  end
end

local function publish(book, message)
  return redis.call('PUBLISH', book.names.live,
    book.epoch .. ' ' .. int(book.seq) .. ' ' .. int(book.ms) .. ' ' .. message)
end

-- A receipt is named by its message. A publisher that gives two messages one id must not make one receipt of them.
local function free_message_id(book, message_id)
  if redis.call('EXISTS', book.names.receipt .. message_id) == 1 then
    return string.sub(message_id, 1, 100) .. '~' .. int(book.seq + 1)
  end
  return message_id
end

local function open_receipt(book, message_id, kind, workflow, state, version, actor)
  local key = book.names.receipt .. message_id
  redis.call('HSET', key, 'type', kind, 'workflow_id', workflow, 'state', state, 'version', version, 'actor', actor,
    'seq', int(book.seq), 'issued_at', int(book.ms), 'status', 'open')
  redis.call('PEXPIRE', key, int(book.receipt_ttl))
end

-- A newer state of a workflow ends the wait for an older one, except that a Killed stays wanted.
local function supersede(book, workflow, message_id)
  local entry = redis.call('HGET', book.names.open, workflow)
  if not entry then
    return
  end
  local older = book.names.receipt .. string.match(entry, '^(%S+)')
  local found = redis.call('HMGET', older, 'status', 'state')
  if found[1] == 'open' and found[2] ~= 'Killed' then
    redis.call('HSET', older, 'status', 'superseded', 'superseded_by', message_id)
  end
  redis.call('HDEL', book.names.open, workflow)
end

local function store_state(names, change, ms)
  redis.call('HSET', names.workflows, change.workflow, change.version .. ' ' .. change.state ..
    ' {"workflow_id":"' .. change.workflow .. '","state":"' .. change.state .. '","version":' .. change.version ..
    ',"reason":' .. change.reason .. ',"updated_at":' .. change.updated_at .. ',"message_id":"' .. change.message_id ..
    '","actor":' .. change.actor .. ',"at":' .. int(ms) .. '}')
  redis.call('HSET', names.changed, change.workflow, int(ms) .. ' ' .. int(change.lifted))
end

local function state_message(organization, change)
  return '{"type":"state_change","organization_id":"' .. organization .. '","workflow_id":"' .. change.workflow ..
    '","state":"' .. change.state .. '","version":' .. change.version .. ',"reason":' .. change.reason ..
    ',"updated_at":' .. change.updated_at .. ',"message_id":"' .. change.message_id .. '"}'
end

-- A server that is out of memory lets a script go on once it has written something that needs none. A Killed or Paused
-- must get through just then, and is small; so must what was lost.
local function pass_when_out_of_memory(names)
  redis.call('HDEL', names.meta, '')
end

-- Gives a workflow a new state under a new version: log, snapshot, receipts, live. Returns how many brokers heard it.
local function commit_state(book, organization, change)
  if change.wants_ack then
    pass_when_out_of_memory(book.names)
    change.message_id = free_message_id(book, change.message_id)
  end
  local message = state_message(organization, change)
  append(book, 'state_change', message, change.actor)
  store_state(book.names, change, book.ms)
  supersede(book, change.workflow, change.message_id)
  if change.wants_ack then
    open_receipt(book, change.message_id, 'state_change', change.workflow, change.state, change.version, change.actor)
    redis.call('HSET', book.names.open, change.workflow,
      change.message_id .. ' ' .. int(book.now + book.receipt_ttl))
  end
  return publish(book, message)
end

-- Version, state, ms of the last change and highest lifted Killed of a workflow; zero and nil when it never changed.
local function stored_state(names, workflow)
  local value = redis.call('HGET', names.workflows, workflow)
  if not value then
    return 0, nil, 0, 0, nil
  end
  local version, state = string.match(value, '^(%d+) (%a+) ')
  local changed = redis.call('HGET', names.changed, workflow)
  local at, lifted = string.match(changed or '', '^(%d+) (%d+)$')
  return tonumber(version), state, tonumber(at or '0'), tonumber(lifted or '0'), value
end
