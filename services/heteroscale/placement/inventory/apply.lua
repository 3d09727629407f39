-- One gang, whole or not at all. Checks first, writes last; nothing that can fail stands after the first write.
--
-- KEYS  1 meta  2 node  3 svc  4 inst  5 done  6 out  7 used
-- ARGV  1 gang  2 service  3 gen  4 fence  5 seq  6 revision  7 at_ms  8 command  9 cycle  10 now  11 service state  12 placement
--       then counted lists: takes (node, gpus), adopts (node, gpus), frees (node, gpus), born (instance),
--       puts (instance, state), drops (instance)
-- Returns {verdict, rev, out entry, node or detail}
local KEPT_PER_SERVICE = 1000

local meta, nodes, services, instances, done, out, used = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local gang, service, seq = ARGV[1], ARGV[2], tonumber(ARGV[5])

-- check: gang seen
local before = redis.call('HGET', done, gang)
if before then
  local rev, entry = string.match(before, '^(%d+) (%S+)$')
  return {'APPLIED', rev, entry, ''}
end

local refusal = overtaken(meta, ARGV[3], ARGV[4])
if refusal then
  return refusal
end

local known = redis.call('HGET', services, service)
local current = known and cjson.decode(known) or {seq = 0}

-- check: command order
if known then
  local theirs, ours = current.command, {revision = tonumber(ARGV[6]), at_ms = tonumber(ARGV[7]), id = ARGV[8]}
  local older = ours.revision < theirs.revision
  if ours.revision == theirs.revision then
    older = ours.at_ms < theirs.at_ms or (ours.at_ms == theirs.at_ms and ours.id < theirs.id)
  end
  if older then
    return {'STALE', '0', '', 'command'}
  end
end

-- check: sequence
if current.seq ~= seq then
  return {'CONFLICT', '0', '', ''}
end

local counted = lists(13)
local takes, adopts, frees, born, puts, drops = counted(2), counted(2), counted(2), counted(1), counted(2), counted(1)

local accounts = {}
local function account(node)
  if accounts[node] == nil then
    local text = redis.call('HGET', nodes, node)
    if text then
      local free, state, revision = string.match(text, '^(-?%d+)|(%a+)|(-?%d+)$')
      accounts[node] = {free = tonumber(free), state = state, revision = revision, adopted = 0}
    else
      accounts[node] = false
    end
  end
  return accounts[node]
end

-- check: nodes that give GPUs
for _, at in ipairs(takes) do
  local found, gpus = account(ARGV[at]), tonumber(ARGV[at + 1])
  if not found or found.state ~= 'ready' or found.free < gpus then
    return {'CONFLICT', '0', '', ARGV[at]}
  end
  found.free = found.free - gpus
end
for _, at in ipairs(adopts) do
  local found, gpus = account(ARGV[at]), tonumber(ARGV[at + 1])
  if not found or found.state == 'removed' then
    return {'CONFLICT', '0', '', ARGV[at]}
  end
  local from_used = math.min(gpus, tonumber(redis.call('HGET', used, ARGV[at]) or '0') - found.adopted)
  if found.free < gpus - from_used then
    return {'CONFLICT', '0', '', ARGV[at]}
  end
  found.adopted = found.adopted + from_used
  found.free = found.free - (gpus - from_used)
end

-- check: births
for _, at in ipairs(born) do
  if redis.call('HEXISTS', instances, ARGV[at]) == 1 then
    return {'CONFLICT', '0', '', ''}
  end
end

-- write
for _, at in ipairs(frees) do
  local found = account(ARGV[at])
  if found then
    found.free = found.free + tonumber(ARGV[at + 1])
  end
end
for node, found in pairs(accounts) do
  if found then
    redis.call('HSET', nodes, node, string.format('%d|%s|%s', found.free, found.state, found.revision))
    if found.adopted > 0 then
      redis.call('HINCRBY', used, node, -found.adopted)
    end
  end
end
for _, at in ipairs(puts) do
  redis.call('HSET', instances, ARGV[at], ARGV[at + 1])
end
for _, at in ipairs(drops) do
  redis.call('HDEL', instances, ARGV[at])
end
redis.call('HSET', services, service, ARGV[11])
local rev = redis.call('HINCRBY', meta, 'rev', 1)
redis.call('HSET', meta, 'cycle', ARGV[9])
if tonumber(ARGV[10]) > tonumber(redis.call('HGET', meta, 'now_ms') or '0') then
  redis.call('HSET', meta, 'now_ms', ARGV[10])
end
local entry = redis.call('XADD', out, '*', 'service', service, 'placement', ARGV[12])
local slot = '@' .. service .. '@' .. (seq % KEPT_PER_SERVICE)
local oldest = redis.call('HGET', done, slot)
if oldest then
  redis.call('HDEL', done, oldest)
end
redis.call('HSET', done, slot, gang, gang, rev .. ' ' .. entry)
return {'APPLIED', tostring(rev), entry, ''}
