-- ARGV: kind of job, now, end of the lease, limit, owner. Gives of each job: id, and its fields.
local free, held = FREE[ARGV[1]], HELD[ARGV[1]]
-- More than a thousand at once would keep everybody waiting; the next claim finds the others.
for _, member in ipairs(redis.call('ZRANGEBYSCORE', held, '-inf', ARGV[2], 'LIMIT', 0, 1000)) do
  local created = redis.call('HGET', 'hub:r:' .. id_of(member), 'created_at')
  redis.call('ZREM', held, member)
  if created then
    redis.call('ZADD', free, created, member)
  end
end
local claimed = {}
if tonumber(ARGV[4]) <= 0 then
  return claimed
end
for _, member in ipairs(redis.call('ZRANGE', free, 0, ARGV[4] - 1)) do
  local id = id_of(member)
  local record = 'hub:r:' .. id
  redis.call('ZREM', free, member)
  -- A record that somebody has deleted by hand must not keep the others from being claimed.
  if redis.call('EXISTS', record) == 1 then
    redis.call('HINCRBY', record, 'attempt', 1)
    redis.call('HSET', record, 'status', 'in_progress', 'owner', ARGV[5])
    redis.call('ZADD', held, ARGV[3], member)
    claimed[#claimed + 1] = {id, redis.call('HGETALL', record)}
  end
end
return claimed
