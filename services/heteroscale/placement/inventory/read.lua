-- The whole inventory of a fleet in one moment, and which run of the server answers ('' where INFO is refused).
--
-- KEYS  1 meta  2 node  3 svc  4 inst  5 used  6 fleet
-- Returns one MessagePack array: a flat array of fields and values for each key, then the run. One string instead of some
-- hundred thousand, which the client would take one by one.
local image = {}
for index, key in ipairs(KEYS) do
  image[index] = redis.call('HGETALL', key)
end
image[#KEYS + 1] = run_of_server()
return cmsgpack.pack(image)
