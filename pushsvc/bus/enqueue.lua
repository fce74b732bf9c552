-- Put jobs on the queue under arq's keys, and wake a worker for those that are due: a job that is the only one there
-- is named by the token, and is started at once.
-- KEYS: queue. ARGV: now (ms), then for each job: id, due (ms), definition, its time to live (ms), what is kept of it.
local now = tonumber(ARGV[1])
local due = {}
for i = 2, #ARGV, 5 do
  local id, at = ARGV[i], tonumber(ARGV[i + 1])
  if redis.call('ZADD', queue, 'NX', at <= now and READY or at, id) == 1 then
    redis.call('SET', 'arq:job:' .. id, ARGV[i + 2], 'PX', ARGV[i + 3])
    redis.call('HSET', queue .. ':about', id, ARGV[i + 4])
    if at <= now then
      local job = about(id)
      push(tree_of(job.queue), id, job)
      due[job.queue] = due[job.queue] and '-' or id
    end
  end
end
local alone = redis.call('ZCOUNT', queue, READY, READY) == 1
for name, id in pairs(due) do wake(name, alone and id or '-') end
return redis.status_reply('OK')
