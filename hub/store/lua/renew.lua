-- ARGV: end of the lease, then of each lease: id, attempt. Gives which are to stop, counted from 0.
local stop = {}
for at = 2, #ARGV, 2 do
  local job, attempt, owner, cancelled, member = unpack(
    redis.call('HMGET', 'hub:r:' .. ARGV[at], 'job', 'attempt', 'owner', 'cancelled', 'm')
  )
  local mine = job and attempt == ARGV[at + 1] and owner
  if mine then
    redis.call('ZREM', FREE[job], member)
    redis.call('ZADD', HELD[job], ARGV[1], member)
  end
  if not mine or cancelled then
    stop[#stop + 1] = (at - 2) / 2
  end
end
return stop
