-- Take finished jobs off the queue and leave arq's short result.
-- KEYS: queue. ARGV: number of jobs, result's time to live (ms), then for each job: id, result ('' for none).
for i = 3, 1 + 2 * tonumber(ARGV[1]), 2 do
  local id = ARGV[i]
  if ARGV[i + 1] ~= '' then redis.call('SET', 'arq:result:' .. id, ARGV[i + 1], 'PX', ARGV[2]) end
  redis.call('DEL', 'arq:job:' .. id, 'arq:in-progress:' .. id, 'arq:retry:' .. id)
  if ready(id) then
    local job = about(id)
    remove(tree_of(job.queue), id, job)
    redis.call('SREM', queue .. ':through', id)
    waits(tree_of(job.queue))
  end
  -- Where it is parked, it is passed over in its turn.
  redis.call('ZREM', queue, id)
  redis.call('HDEL', queue .. ':about', id)
end
return redis.status_reply('OK')
