-- Give claimed jobs back: they are due again at the given score. A due one wakes a worker.
-- KEYS: queue, wake list. ARGV: now (ms), then for each job: id, score (ms).
local due
for i = 2, #ARGV, 2 do
  redis.call('DEL', 'arq:in-progress:' .. ARGV[i])
  redis.call('ZADD', KEYS[1], ARGV[i + 1], ARGV[i])
  if tonumber(ARGV[i + 1]) <= tonumber(ARGV[1]) then due = due or ARGV[i] end
end
if due and redis.call('LLEN', KEYS[2]) == 0 then redis.call('RPUSH', KEYS[2], due) end
return redis.status_reply('OK')
