-- Claimed jobs for which a limit leaves no room wait until one of their kind ends.
-- KEYS: queue. ARGV: for each job: id, `each` or `all`, for whichever limit it is.
for i = 1, #ARGV, 2 do
  local id = ARGV[i]
  if redis.call('ZSCORE', queue, id) then
    local job = about(id)
    redis.call('DEL', 'arq:in-progress:' .. id)
    redis.call('ZADD', queue, READY, id)
    park(ARGV[i + 1] == 'each' and parked_each(job) or parked_all(job), id, job)
  end
end
return redis.status_reply('OK')
