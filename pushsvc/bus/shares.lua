-- Who is next: shares of the places, to tenants by their weights, then equally to the owners of each, and within an
-- owner's by priority. Stride scheduling (Waldspurger & Weihl 1995, MIT/LCS/TM-528): each has a pass, who has the
-- lowest is next, and a start raises it; who comes anew begins at the lowest there is. `shares.py` says the same.
--
-- A tree is a sorted set of tenants by pass, under it one of each tenant's owners, under that one of each owner's jobs
-- for each priority, by due time. Who has no jobs left goes when its turn comes, so that nobody gains by leaving.
local queue = KEYS[1]
local LOW_EVERY, NORMAL_EVERY = 10, 5
-- The score of what waits for nothing but its turn; arq takes none at all for a job that is not there.
local READY = '0.5'
local SEP = '\31'

-- What is kept of a job besides its place: tenant, owner, name, queue, priority, due (ms).
local function about(id)
  local kept = redis.call('HGET', queue .. ':about', id)
  if not kept then return {tenant = '', owner = '', name = '', queue = 'default', priority = '0', due = 0} end
  local tenant, owner, name, of, priority, due = kept:match('^(.-)\31(.-)\31(.-)\31(.-)\31(.-)\31(.-)$')
  return {tenant = tenant, owner = owner, name = name, queue = of, priority = priority, due = tonumber(due)}
end

local function tree_of(name) return queue .. ':ready:' .. name end
local function wake_of(name) return name == 'default' and queue .. ':wake' or queue .. ':wake:' .. name end
local function parked_each(job) return queue .. ':parked:' .. job.name .. SEP .. job.tenant .. SEP .. job.owner end
local function parked_all(job) return queue .. ':parked:' .. job.name end

local function join(key, member)
  if redis.call('ZSCORE', key, member) then return end
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  redis.call('ZADD', key, first[2] or 0, member)
end

local function jobs_of(tree, tenant, owner, priority)
  return tree .. SEP .. tenant .. SEP .. owner .. SEP .. priority
end

local function push(tree, id, job)
  local new = redis.call('ZADD', jobs_of(tree, job.tenant, job.owner, job.priority), job.due, id)
  join(tree .. SEP .. job.tenant, job.owner)
  join(tree, job.tenant)
  return new
end

-- In which order an owner's priorities are looked at: the lower ones have the first word now and then, or never.
local function order(pass)
  local turn = pass % LOW_EVERY
  if turn == LOW_EVERY - 1 then return {'-1', '0', '1'} end
  if turn == NORMAL_EVERY - 1 then return {'0', '1', '-1'} end
  return {'1', '0', '-1'}
end

-- Whether anything is left. What has become empty goes.
local function waits(tree)
  while true do
    local tenant = redis.call('ZRANGE', tree, 0, 0)[1]
    if not tenant then return false end
    local owners = tree .. SEP .. tenant
    local owner = redis.call('ZRANGE', owners, 0, 0)[1]
    if not owner then
      redis.call('ZREM', tree, tenant)
    else
      local function jobs(priority) return jobs_of(tree, tenant, owner, priority) end
      if redis.call('EXISTS', jobs('1'), jobs('0'), jobs('-1')) > 0 then return true end
      redis.call('ZREM', owners, owner)
    end
  end
end

-- So many starts of an owner: of both the pass goes up, or, for one that was none after all, down again.
local function charge(tree, tenant, owner, weights, starts)
  redis.call('ZINCRBY', tree, starts / (weights[tenant] or 1), tenant)
  redis.call('ZINCRBY', tree .. SEP .. tenant, starts, owner)
end

-- Take the next job out of a tree, and charge its owner. Returns its id, or false, its tenant and its owner.
local function pop(tree, weights)
  if not waits(tree) then return false end
  local tenant = redis.call('ZRANGE', tree, 0, 0)[1]
  local owner, pass = unpack(redis.call('ZRANGE', tree .. SEP .. tenant, 0, 0, 'WITHSCORES'))
  charge(tree, tenant, owner, weights, 1)
  for _, priority in ipairs(order(tonumber(pass))) do
    local id = redis.call('ZPOPMIN', jobs_of(tree, tenant, owner, priority))[1]
    if id then return id, tenant, owner end
  end
end

-- Take this very job out of a tree; whether it was there.
local function remove(tree, id, job)
  return redis.call('ZREM', jobs_of(tree, job.tenant, job.owner, job.priority), id) == 1
end

-- Whether it waits, here or parked.
local function ready(id) return redis.call('ZSCORE', queue, id) == READY end

local function make_ready(id, job)
  redis.call('ZADD', queue, READY, id)
  push(tree_of(job.queue), id, job)
end

local function wake(name, token)
  local list = wake_of(name)
  if redis.call('LLEN', list) == 0 then redis.call('RPUSH', list, token or '-') end
end

local function park(tree, id, job)
  redis.call('HINCRBY', queue .. ':parked', tree, push(tree, id, job))
end

-- Let up to so many of a tree of parked jobs wait with the others again.
local function unpark(tree, count)
  local found = 0
  while found < count do
    local id = pop(tree, {})
    if not id then
      redis.call('HDEL', queue .. ':parked', tree)
      break
    end
    if redis.call('HINCRBY', queue .. ':parked', tree, -1) <= 0 then redis.call('HDEL', queue .. ':parked', tree) end
    if ready(id) then
      local job = about(id)
      push(tree_of(job.queue), id, job)
      -- While others of its kind are parked, this one is let through.
      redis.call('SADD', queue .. ':through', id)
      wake(job.queue)
      found = found + 1
    end
  end
  return found
end

local function is_parked(tree) return redis.call('HEXISTS', queue .. ':parked', tree) == 1 end
