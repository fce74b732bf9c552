-- Claim up to `limit` due jobs under a lease. A claimed job's score becomes the lease's end, so that running
-- jobs leave the window that is scanned, and a job whose worker died comes back by itself.
-- KEYS: queue, wake list. ARGV: now (ms), limit, lease (ms), worker.
-- Returns {claimed ids, score of the next job to fall due or false}.
local now, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local claimed = {}
local ready = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, limit + 64)
local left = false
for _, id in ipairs(ready) do
  if #claimed == limit then left = true break end
  if redis.call('SET', 'arq:in-progress:' .. id, ARGV[4], 'NX', 'PX', ARGV[3]) then
    redis.call('ZADD', KEYS[1], 'XX', now + tonumber(ARGV[3]), id)
    claimed[#claimed + 1] = id
  else
    -- Running elsewhere (a stock arq worker leaves the score as it was): look again when its lease ends.
    local ttl = redis.call('PTTL', 'arq:in-progress:' .. id)
    redis.call('ZADD', KEYS[1], 'XX', now + math.max(ttl, 100), id)
  end
end
if left and redis.call('LLEN', KEYS[2]) == 0 then redis.call('RPUSH', KEYS[2], '1') end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {claimed, first[2] or false}
