-- Claim up to `limit` due jobs under a lease, beginning with the one that the token named. A claimed job's
-- score becomes the lease's end, so that running jobs leave the window that is scanned, and a job whose worker
-- died comes back by itself.
-- KEYS: queue, wake list. ARGV: now (ms), limit, lease (ms), worker, the token's job ('' for none).
-- Returns {claimed ids, score of the next job to fall due or false}.
local now, limit, lease, worker, first = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
local claimed = {}

local function claim(id)
  if not redis.call('SET', 'arq:in-progress:' .. id, worker, 'NX', 'PX', lease) then return false end
  redis.call('ZADD', KEYS[1], 'XX', now + lease, id)
  claimed[#claimed + 1] = id
  return true
end

if first ~= '' then
  local score = redis.call('ZSCORE', KEYS[1], first)
  if score and tonumber(score) <= now then claim(first) end
  -- Its place counts either way: the worker starts it in PostgreSQL at the same time.
  limit = limit - 1 + #claimed
end
local left
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, limit + 64)) do
  if #claimed >= limit then left = id break end
  if not claim(id) then
    -- Running elsewhere (a stock arq worker leaves the score as it was): look again when its lease ends.
    local ttl = redis.call('PTTL', 'arq:in-progress:' .. id)
    redis.call('ZADD', KEYS[1], 'XX', now + math.max(ttl, 100), id)
  end
end
if left and redis.call('LLEN', KEYS[2]) == 0 then redis.call('RPUSH', KEYS[2], left) end
local next_due = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {claimed, next_due[2] or false}
