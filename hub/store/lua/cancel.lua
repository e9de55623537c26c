-- KEYS: record. ARGV: id, tenant, news, node. Gives whether there is such a job.
local tenant, job, cancelled = unpack(redis.call('HMGET', KEYS[1], 'tenant', 'job', 'cancelled'))
if tenant ~= ARGV[2] or not job then
  return 0
end
if not cancelled then
  redis.call('HSET', KEYS[1], 'cancelled', 1)
  tell(ARGV[3], ARGV[4], 'cancel', ARGV[1])
end
return 1
