-- KEYS: record. ARGV: id, attempt, news, node. Gives 0 if fenced, else 1.
local job, attempt, member, created = unpack(
  redis.call('HMGET', KEYS[1], 'job', 'attempt', 'm', 'created_at')
)
if not job or attempt ~= ARGV[2] then
  return 0
end
redis.call('HDEL', KEYS[1], 'owner')
if redis.call('ZREM', HELD[job], member) == 1 then
  redis.call('ZADD', FREE[job], created, member)
  tell(ARGV[3], ARGV[4], 'job', ARGV[1])
end
return 1
