-- Switches a whole rebuilt inventory in, under a new generation, and notes which run of the server has it.
--
-- KEYS  1 meta  2 node  3 svc  4 inst  5 done  6 out  7 used  8 fleet
-- ARGV  1 fence  2 old gen ('' = none)  3 new gen  4 cycle  5 now
--       then counted lists: nodes (node, accounts, fleet record, used), services (service, state), instances (instance, state),
--       placements (service, placement)
-- Returns {verdict, rev, '', detail}
local meta = KEYS[1]
if redis.call('HGET', meta, 'fence') ~= ARGV[1] then
  return {'NOT_READY', '0', '', 'fence'}
end
if (redis.call('HGET', meta, 'gen') or '') ~= ARGV[2] then
  return {'NOT_READY', '0', '', 'gen'}
end

for key = 2, 8 do
  redis.call('DEL', KEYS[key])
end
local counted = lists(6)
for _, at in ipairs(counted(4)) do
  redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
  redis.call('HSET', KEYS[8], ARGV[at], ARGV[at + 2])
  if ARGV[at + 3] ~= '0' then
    redis.call('HSET', KEYS[7], ARGV[at], ARGV[at + 3])
  end
end
for _, at in ipairs(counted(2)) do
  redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 1])
end
for _, at in ipairs(counted(2)) do
  redis.call('HSET', KEYS[4], ARGV[at], ARGV[at + 1])
end
for _, at in ipairs(counted(2)) do
  redis.call('XADD', KEYS[6], '*', 'service', ARGV[at], 'placement', ARGV[at + 1])
end
redis.call('HSET', meta, 'gen', ARGV[3], 'cycle', ARGV[4], 'now_ms', ARGV[5], 'run', run_of_server())
return {'APPLIED', tostring(redis.call('HINCRBY', meta, 'rev', 1)), '', ''}
