-- What the scripts share; it stands before the text of each.

-- Which run of the server this is; '' where INFO is refused.
local function run_of_server()
  local info = redis.pcall('INFO', 'server')
  return type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
end

-- The answer to a writer that was overtaken; nothing if it was not.
local function overtaken(meta, gen, fence)
  -- check: generation
  if redis.call('HGET', meta, 'gen') ~= gen then
    return {'NOT_READY', '0', '', ''}
  end

  -- check: server run
  local run = redis.call('HGET', meta, 'run') or ''
  local server = run ~= '' and run_of_server() or ''
  if server ~= run and server ~= '' then
    return {'NOT_READY', '0', '', 'run'}
  end

  -- check: fence
  if tonumber(fence) < tonumber(redis.call('HGET', meta, 'fence') or '0') then
    return {'STALE', '0', '', 'fence'}
  end
  -- end of checks
end

-- Reads counted lists from ARGV, beginning at `at`. Each call gives the places at which the rows of the next list begin.
local function lists(at)
  return function(width)
    local places, count = {}, tonumber(ARGV[at])
    for row = 1, count do
      places[row] = at + 1 + (row - 1) * width
    end
    at = at + 1 + count * width
    return places
  end
end
