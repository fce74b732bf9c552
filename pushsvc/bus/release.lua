-- Give claimed jobs back: they are due again at the given time. A due one wakes a worker.
-- KEYS: queue. ARGV: now (ms), then for each job: id, due (ms).
local now = tonumber(ARGV[1])
for i = 2, #ARGV, 2 do
  local id, at = ARGV[i], tonumber(ARGV[i + 1])
  redis.call('DEL', 'arq:in-progress:' .. id)
  -- One of which Redis has forgotten everything is the sweeper's.
  if redis.call('ZADD', queue, 'XX', 'CH', at, id) == 1 and at <= now then
    local job = about(id)
    make_ready(id, job)
    wake(job.queue)
  end
end
return redis.status_reply('OK')
