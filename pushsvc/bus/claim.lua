-- Claim up to `limit` due jobs under a lease, each next by its owner's share. A claimed job's score becomes the lease's
-- end, and the job comes back by itself when its worker died.
-- KEYS: queue. ARGV: now (ms), limit, lease (ms), worker, the token's job ('' for none), JSON of what the worker
-- knows: `queues` in the order in which they are asked, `limited` (jobs by name: `each`, `all` or `each all`), `weights`.
-- Returns {claimed ids, when the next one falls due (ms) or false, whether there is more to look at}.
local PROMOTED, PASSED_OVER = 1000, 200
local now, limit, lease, worker, first = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
local known = cjson.decode(ARGV[6])
local claimed = {}

-- Whose time has come, or whose lease is over; also what somebody else has put there.
for _, range in ipairs({{'-inf', '(' .. READY}, {'(' .. READY, now}}) do
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', queue, range[1], range[2], 'LIMIT', 0, PROMOTED)) do
    make_ready(id, about(id))
  end
end

local function claim(id)
  if not redis.call('SET', 'arq:in-progress:' .. id, worker, 'NX', 'PX', lease) then
    -- Running elsewhere (a stock arq worker leaves the score as it was): look again when its lease ends.
    redis.call('ZADD', queue, 'XX', now + math.max(redis.call('PTTL', 'arq:in-progress:' .. id), 100), id)
    return false
  end
  redis.call('ZADD', queue, 'XX', now + lease, id)
  claimed[#claimed + 1] = id
  return true
end

-- As long as one of its kind is parked there is no room for another.
local function parked(id, job)
  local limits = known.limited[job.name]
  if not limits or redis.call('SREM', queue .. ':through', id) == 1 then return false end
  local each, all = parked_each(job), parked_all(job)
  if limits:find('each') and is_parked(each) then park(each, id, job)
  elseif limits:find('all') and is_parked(all) then park(all, id, job)
  else return false end
  return true
end

if first ~= '' then
  if ready(first) and claim(first) then
    -- It is started before its turn.
    local job = about(first)
    local tree = tree_of(job.queue)
    if remove(tree, first, job) then charge(tree, job.tenant, job.owner, known.weights, 1) end
  end
  -- Its place counts either way: the worker starts it in PostgreSQL at the same time.
  limit = limit - 1 + #claimed
end
local more = false
local over = {}
local passed = 0
while #claimed < limit and passed < PASSED_OVER do
  local found = false
  for at, name in ipairs(known.queues) do
    if #claimed >= limit then break end
    if not over[at] then
      local tree = tree_of(name)
      local id, tenant, owner = pop(tree, known.weights)
      over[at] = not id
      found = found or id
      if id and not (ready(id) and not parked(id, about(id)) and claim(id)) then
        charge(tree, tenant, owner, known.weights, -1)
        passed = passed + 1
      end
    end
  end
  if not found then break end
end
for _, name in ipairs(known.queues) do
  if waits(tree_of(name)) then
    more = true
    wake(name)
  end
end
local next_due = redis.call('ZRANGEBYSCORE', queue, '(' .. READY, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {claimed, next_due[2] or false, (more and passed > 0) and 1 or 0}
