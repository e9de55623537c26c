-- KEYS: record, log, channel. ARGV: attempt, first, last, entry, body, size, whether to push the body.
-- Gives the bytes that the store holds; -1 if the log reaches as far already; -2 if the attempt is
-- not the latest one of a job; {last} if there would be a gap after that event.
local job = redis.call('HMGET', KEYS[1], 'job', 'attempt', 'last', 'size')
if not job[1] or job[2] ~= ARGV[1] then
  return -2
end
if job[3] then
  local last = tonumber(job[3])
  if tonumber(ARGV[2]) > last + 1 then
    return {last}
  end
  if tonumber(ARGV[3]) <= last then
    return -1
  end
end
redis.call('XADD', KEYS[2], ARGV[4], 'b', ARGV[5])
redis.call('HSET', KEYS[1], 'last', ARGV[3], 'size', job[4] + ARGV[6])
if ARGV[7] == '1' then
  redis.call('SPUBLISH', KEYS[3], 's ' .. ARGV[2] .. ' ' .. ARGV[3] .. '\n' .. ARGV[5])
else
  redis.call('SPUBLISH', KEYS[3], 'w ' .. ARGV[2] .. ' ' .. ARGV[3] .. '\n')
end
return redis.call('INCRBY', 'hub:bytes', ARGV[6])
