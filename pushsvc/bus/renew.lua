-- Prolong the leases of running jobs.
-- KEYS: queue. ARGV: now (ms), lease (ms), worker, then ids.
for i = 4, #ARGV do
  redis.call('SET', 'arq:in-progress:' .. ARGV[i], ARGV[3], 'PX', ARGV[2])
  redis.call('ZADD', queue, 'XX', tonumber(ARGV[1]) + tonumber(ARGV[2]), ARGV[i])
end
return redis.status_reply('OK')
