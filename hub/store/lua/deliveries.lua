-- ARGV: due until, now, end of the hold, limit, node. Gives of each: id, and its fields.
-- The webhooks of other nodes stay in the set while they hold them: so it is looked at in pages.
local PAGE, MOST = 100, 10000
local limit, now, node = tonumber(ARGV[4]), tonumber(ARGV[2]), ARGV[5]
local due = {}
for at = 0, MOST, PAGE do
  local page = redis.call('ZRANGEBYSCORE', 'hub:hooks', '-inf', ARGV[1], 'LIMIT', at, PAGE)
  for _, member in ipairs(page) do
    if #due == limit then
      return due
    end
    local id = id_of(member)
    local hook = 'hub:h:' .. id
    local holder, till = unpack(redis.call('HMGET', hook, 'node', 'until'))
    if not holder or holder == node or tonumber(till) <= now then
      redis.call('HSET', hook, 'node', node, 'until', ARGV[3])
      due[#due + 1] = {id, redis.call('HMGET', hook, 'response', 'url', 'body', 'next_at', 'tries')}
    end
  end
  if #page < PAGE then
    break
  end
end
return due
