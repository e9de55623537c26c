-- ARGV: id.
local hook = 'hub:h:' .. ARGV[1]
local member = redis.call('HGET', hook, 'm')
if member then
  redis.call('UNLINK', hook)
  redis.call('ZREM', 'hub:hooks', member)
end
return 1
