-- The whole inventory of a fleet in one moment, and which run of the server answers ('' where INFO is refused).
--
-- KEYS  1 meta  2 node  3 svc  4 inst  5 used  6 fleet
local image = {}
for index, key in ipairs(KEYS) do
  image[index] = redis.call('HGETALL', key)
end
local info = redis.pcall('INFO', 'server')
image[#KEYS + 1] = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
return image
