-- The whole inventory of a fleet in one moment, and which run of the server answers ('' where INFO is refused).
--
-- KEYS  1 meta  2 node  3 svc  4 inst  5 used  6 fleet
-- Without a generation nothing is built, and what the other keys hold is of no account.
-- Returns one MessagePack array: a flat array of fields and values for each key, then the run. One string instead of some
-- hundred thousand, which the client would take one by one.
local image = {redis.call('HGETALL', KEYS[1])}
local built = redis.call('HEXISTS', KEYS[1], 'gen') == 1
for index = 2, #KEYS do
  image[index] = built and redis.call('HGETALL', KEYS[index]) or {}
end
image[#KEYS + 1] = run_of_server()
return cmsgpack.pack(image)
