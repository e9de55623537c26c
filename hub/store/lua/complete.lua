-- KEYS: record, log, channel. ARGV: id, attempt, status, result, bytes of the result; first, last,
-- entry ('' if there is no segment), body, its size, whether to push it; then of each delivery: id,
-- response, url, body, next_at, tries. Gives {0} if fenced, {1, last} if there would be a gap after
-- that event, and {2, last event or -1, totals}.
local job, attempt, had, size, member, created, expires = unpack(
  redis.call('HMGET', KEYS[1], 'job', 'attempt', 'last', 'size', 'm', 'created_at', 'expires_at')
)
if not job or attempt ~= ARGV[2] then
  return {0}
end
had = tonumber(had or -1)
local news = 'e -1 -1\n'
local last, grown = had, tonumber(ARGV[5])
if ARGV[8] ~= '' then
  local first = tonumber(ARGV[6])
  if had >= 0 and first > had + 1 then
    return {1, had}
  end
  if tonumber(ARGV[7]) > had then
    last = tonumber(ARGV[7])
    grown = grown + ARGV[10]
    redis.call('XADD', KEYS[2], ARGV[8], 'b', ARGV[9])
    local range = ' ' .. ARGV[6] .. ' ' .. ARGV[7] .. '\n'
    news = ARGV[11] == '1' and 'es' .. range .. ARGV[9] or 'ew' .. range
  end
end
redis.call(
  'HSET', KEYS[1], 'status', ARGV[3], 'result', ARGV[4], 'last', last, 'size', size + grown
)
redis.call('HDEL', KEYS[1], 'job', 'owner')
redis.call('ZREM', FREE[job], member)
redis.call('ZREM', HELD[job], member)
redis.call('ZADD', 'hub:ended', expires, member)
redis.call('ZADD', 'hub:age', created, member)
redis.call('INCRBY', 'hub:bytes', grown)
for at = 12, #ARGV, 6 do
  local hook = 'hub:h:' .. ARGV[at]
  if redis.call('EXISTS', hook) == 0 then
    local webhook = numbered(ARGV[at])
    redis.call(
      'HSET', hook, 'm', webhook, 'response', ARGV[at + 1], 'url', ARGV[at + 2],
      'body', ARGV[at + 3], 'next_at', ARGV[at + 4], 'tries', ARGV[at + 5]
    )
    redis.call('ZADD', 'hub:hooks', ARGV[at + 4], webhook)
  end
end
redis.call('SPUBLISH', KEYS[3], news)
return {2, last, totals()}
