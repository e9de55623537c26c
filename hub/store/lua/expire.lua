-- ARGV: now, bytes that may stay or '', how much to forget at once. Gives {how many records went,
-- whether there may be more, totals}.
local now, limit = ARGV[1], tonumber(ARGV[3])
local keys = redis.call('ZRANGEBYSCORE', 'hub:keys', '-inf', now, 'LIMIT', 0, limit)
for _, key in ipairs(keys) do
  redis.call('UNLINK', 'hub:i:' .. key)
  redis.call('ZREM', 'hub:keys', key)
end
local gone = 0
for _, member in ipairs(redis.call('ZRANGEBYSCORE', 'hub:ended', '-inf', now, 'LIMIT', 0, limit)) do
  forget(member)
  gone = gone + 1
end
if ARGV[2] ~= '' then
  local most = tonumber(ARGV[2])
  while gone < limit and tonumber(redis.call('GET', 'hub:bytes') or 0) > most do
    local oldest = redis.call('ZRANGE', 'hub:age', 0, 0)[1]
    if not oldest then
      break
    end
    forget(oldest)
    gone = gone + 1
  end
end
return {gone, (gone == limit or #keys == limit) and 1 or 0, totals()}
