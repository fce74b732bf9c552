-- Where jobs stand: how many of those that wait now are started before, by the shares as they are.
-- KEYS: queue. ARGV: now (ms), JSON of the weights, then ids.
-- Returns for each {state, position}: `gone`, `later`, `claimed`, `parked` or `ready`; and how many workers serve it.
local LOOKED_AT = 200
local now, weights = tonumber(ARGV[1]), cjson.decode(ARGV[2])

local function waiting(jobs)
  return redis.call('ZCARD', jobs .. '1') + redis.call('ZCARD', jobs .. '0') + redis.call('ZCARD', jobs .. '-1')
end

-- How many of an owner's own go first.
local function own(jobs, id, priority)
  local rank = redis.call('ZRANK', jobs .. priority, id)
  if not rank then return nil end
  if priority == '1' then return rank end
  if priority == '0' then return rank + redis.call('ZCARD', jobs .. '1') end
  return rank + redis.call('ZCARD', jobs .. '1') + redis.call('ZCARD', jobs .. '0')
end

-- How many of the others' go first, while `rounds` of this one's do: of as many as are looked at, and so for all.
local function others(key, mine, rounds, count)
  local members = redis.call('ZRANGE', key, 0, LOOKED_AT, 'WITHSCORES')
  local all, seen, ahead = redis.call('ZCARD', key), 0, 0
  for i = 1, #members, 2 do
    if members[i] ~= mine then
      seen = seen + 1
      ahead = ahead + count(members[i], rounds)
    end
  end
  if seen > 0 and all - 1 > seen then ahead = math.floor(ahead * (all - 1) / seen) end
  return ahead
end

local function place(id, job)
  local tree = tree_of(job.queue)
  local owners = tree .. SEP .. job.tenant
  local before = own(owners .. SEP .. job.owner .. SEP, id, job.priority)
  if not before then return false end
  before = before + others(owners, job.owner, before, function(owner, rounds)
    return math.min(waiting(owners .. SEP .. owner .. SEP), rounds + 1)
  end)
  return before + others(tree, job.tenant, before, function(tenant, rounds)
    local share = math.ceil((rounds + 1) * (weights[tenant] or 1) / (weights[job.tenant] or 1))
    local found = 0
    for _, owner in ipairs(redis.call('ZRANGE', tree .. SEP .. tenant, 0, LOOKED_AT)) do
      found = found + waiting(tree .. SEP .. tenant .. SEP .. owner .. SEP)
      if found >= share then return share end
    end
    return found
  end)
end

local found = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local score = redis.call('ZSCORE', queue, id)
  local job = about(id)
  local state, position = 'gone', false
  if score and score ~= READY then
    state = redis.call('EXISTS', 'arq:in-progress:' .. id) == 1 and 'claimed' or 'later'
  elseif score then
    position = place(id, job)
    state = position and 'ready' or 'parked'
  end
  redis.call('ZREMRANGEBYSCORE', queue .. ':workers:' .. job.queue, '-inf', now)
  found[#found + 1] = {state, position, redis.call('ZCARD', queue .. ':workers:' .. job.queue)}
end
return found
