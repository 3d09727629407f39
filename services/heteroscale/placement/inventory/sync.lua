-- Nodes as the fleet topic says, on the state that was read and on no other.
--
-- KEYS  1 meta  2 node  3 used  4 fleet
-- ARGV  1 gen  2 fence  3 rev as read
--       then counted lists: nodes (node, accounts, fleet record, used), gone (node)
-- Returns {verdict, rev, '', detail}
local meta = KEYS[1]
if redis.call('HGET', meta, 'gen') ~= ARGV[1] then
  return {'NOT_READY', '0', '', ''}
end
local run = redis.call('HGET', meta, 'run')
if run and run ~= '' then
  local info = redis.pcall('INFO', 'server')
  if type(info) == 'string' and string.match(info, 'run_id:(%x+)') ~= run then
    return {'NOT_READY', '0', '', 'run'}
  end
end
if tonumber(ARGV[2]) < tonumber(redis.call('HGET', meta, 'fence') or '0') then
  return {'STALE', '0', '', 'fence'}
end
if (redis.call('HGET', meta, 'rev') or '0') ~= ARGV[3] then
  return {'CONFLICT', '0', '', ''}
end

local at = 4
local count = tonumber(ARGV[at])
at = at + 1
for _ = 1, count do
  redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
  redis.call('HSET', KEYS[4], ARGV[at], ARGV[at + 2])
  if ARGV[at + 3] == '0' then
    redis.call('HDEL', KEYS[3], ARGV[at])
  else
    redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 3])
  end
  at = at + 4
end
count = tonumber(ARGV[at])
at = at + 1
for _ = 1, count do
  redis.call('HDEL', KEYS[2], ARGV[at])
  redis.call('HDEL', KEYS[3], ARGV[at])
  redis.call('HDEL', KEYS[4], ARGV[at])
  at = at + 1
end
return {'APPLIED', tostring(redis.call('HINCRBY', meta, 'rev', 1)), '', ''}
