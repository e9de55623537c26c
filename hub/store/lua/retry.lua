-- ARGV: id, next_at.
local hook = 'hub:h:' .. ARGV[1]
local member = redis.call('HGET', hook, 'm')
if member then
  redis.call('HSET', hook, 'next_at', ARGV[2])
  redis.call('HINCRBY', hook, 'tries', 1)
  redis.call('ZADD', 'hub:hooks', ARGV[2], member)
end
return 1
