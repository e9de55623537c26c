-- KEYS: record, log, channel. ARGV: tenant. Gives {whether there was one, whether it was a job,
-- totals}.
local tenant, member = unpack(redis.call('HMGET', KEYS[1], 'tenant', 'm'))
if tenant ~= ARGV[1] then
  return {0, 0, totals()}
end
local job = forget(member)
if job then
  redis.call('SPUBLISH', KEYS[3], 'e -1 -1\n')
end
return {1, job and 1 or 0, totals()}
