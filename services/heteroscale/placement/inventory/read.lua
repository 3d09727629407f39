-- The whole inventory of a fleet in one moment.
--
-- KEYS  1 meta  2 node  3 svc  4 inst  5 used  6 fleet
local image = {}
for index, key in ipairs(KEYS) do
  image[index] = redis.call('HGETALL', key)
end
return image
