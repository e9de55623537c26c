-- KEYS: record, log, channel, and the idempotency key if there is one. ARGV: id, kind of job or '',
-- end of the hold or '', created_at, expires_at, size, news, node; digest, expiry and name of the
-- idempotency key; first, last, entry ('' if there is no segment), body, whether to push it; then the
-- fields of the record. Gives {id, whether the log has grown, totals}, or 0 for a conflict.
local id, kind, held, node, entry = ARGV[1], ARGV[2], ARGV[3], ARGV[8], ARGV[14]
if KEYS[4] then
  local digest, used = unpack(redis.call('HMGET', KEYS[4], 'digest', 'id'))
  if used then
    if digest ~= ARGV[9] then
      return 0
    end
    return {used, 0, totals()}
  end
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  return {id, 0, totals()}
end
local member = numbered(id)
redis.call('HSET', KEYS[1], 'm', member, 'size', ARGV[6], unpack(ARGV, 17))
if kind == '' then
  redis.call('ZADD', 'hub:ended', ARGV[5], member)
  redis.call('ZADD', 'hub:age', ARGV[4], member)
else
  redis.call('HSET', KEYS[1], 'job', kind)
  if held ~= '' then
    redis.call('HSET', KEYS[1], 'owner', node)
    redis.call('ZADD', HELD[kind], held, member)
  else
    redis.call('ZADD', FREE[kind], ARGV[4], member)
    tell(ARGV[7], node, 'job', id)
  end
end
if KEYS[4] then
  redis.call('HSET', KEYS[4], 'digest', ARGV[9], 'id', id)
  redis.call('ZADD', 'hub:keys', ARGV[10], ARGV[11])
end
if entry ~= '' then
  redis.call('XADD', KEYS[2], entry, 'b', ARGV[15])
  redis.call('HSET', KEYS[1], 'last', ARGV[13])
  local range = ' ' .. ARGV[12] .. ' ' .. ARGV[13] .. '\n'
  redis.call('SPUBLISH', KEYS[3], ARGV[16] == '1' and 's' .. range .. ARGV[15] or 'w' .. range)
end
redis.call('INCRBY', 'hub:bytes', ARGV[6])
return {id, entry ~= '' and 1 or 0, totals()}
