-- Nodes as the fleet topic says, on the state that was read and on no other.
--
-- KEYS  1 meta  2 node  3 used  4 fleet
-- ARGV  1 gen  2 fence  3 rev as read
--       then counted lists: nodes (node, accounts, fleet record, used), gone (node)
-- Returns {verdict, rev, '', detail}
local meta = KEYS[1]
local refusal = overtaken(meta, ARGV[1], ARGV[2])
if refusal then
  return refusal
end
if (redis.call('HGET', meta, 'rev') or '0') ~= ARGV[3] then
  return {'CONFLICT', '0', '', ''}
end

local counted = lists(4)
for _, at in ipairs(counted(4)) do
  redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
  redis.call('HSET', KEYS[4], ARGV[at], ARGV[at + 2])
  if ARGV[at + 3] == '0' then
    redis.call('HDEL', KEYS[3], ARGV[at])
  else
    redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 3])
  end
end
for _, at in ipairs(counted(1)) do
  redis.call('HDEL', KEYS[2], ARGV[at])
  redis.call('HDEL', KEYS[3], ARGV[at])
  redis.call('HDEL', KEYS[4], ARGV[at])
end
return {'APPLIED', tostring(redis.call('HINCRBY', meta, 'rev', 1)), '', ''}
