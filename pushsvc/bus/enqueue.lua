-- Put jobs on the queue under arq's keys, and wake one worker if any is due: the token is the first one's id.
-- KEYS: queue, wake list. ARGV: now (ms), then for each job: id, score (ms), definition, its time to live (ms).
local now = tonumber(ARGV[1])
local due
for i = 2, #ARGV, 4 do
  redis.call('SET', 'arq:job:' .. ARGV[i], ARGV[i + 2], 'PX', ARGV[i + 3])
  redis.call('ZADD', KEYS[1], 'NX', ARGV[i + 1], ARGV[i])
  if tonumber(ARGV[i + 1]) <= now then due = due or ARGV[i] end
end
if due and redis.call('LLEN', KEYS[2]) == 0 then redis.call('RPUSH', KEYS[2], due) end
return redis.status_reply('OK')
