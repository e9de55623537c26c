-- KEYS: record. ARGV: id, attempt, owner, end of the lease. What a claim has done, once more, if it
-- was lost since.
local job, attempt, member = unpack(redis.call('HMGET', KEYS[1], 'job', 'attempt', 'm'))
if not job or tonumber(attempt) ~= ARGV[2] - 1 then
  return 0
end
redis.call('HSET', KEYS[1], 'attempt', ARGV[2], 'status', 'in_progress', 'owner', ARGV[3])
redis.call('ZREM', FREE[job], member)
redis.call('ZADD', HELD[job], ARGV[4], member)
return 1
