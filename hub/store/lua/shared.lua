-- What the scripts share. It stands in front of each of them but append.lua, which is the hot path.
--
-- hub:r:<id> is a record, a hash; while it is a job it has the field "job": 'b' of the background,
-- 'f' of the foreground. hub:l:<id> is its log. The *member* under which it is in the sorted sets is
-- its number in the order of arrival, 16 digits, and its id: so ties are in that order.

local FREE = {b = 'hub:free', f = 'hub:ffree'}
local HELD = {b = 'hub:held', f = 'hub:fheld'}

-- Records, jobs and bytes that the store holds.
local function totals()
  local jobs = redis.call('ZCARD', FREE.b) + redis.call('ZCARD', FREE.f)
    + redis.call('ZCARD', HELD.b) + redis.call('ZCARD', HELD.f)
  return redis.call('ZCARD', 'hub:age') + jobs, jobs, tonumber(redis.call('GET', 'hub:bytes') or 0)
end

-- The member of something new.
local function numbered(id)
  return string.format('%016d', redis.call('INCR', 'hub:n')) .. id
end

local function id_of(member)
  return string.sub(member, 17)
end

-- Forget a record and its log.
local function forget(member)
  local id = id_of(member)
  local record = 'hub:r:' .. id
  local size, job = unpack(redis.call('HMGET', record, 'size', 'job'))
  redis.call('UNLINK', record, 'hub:l:' .. id)
  if job then
    redis.call('ZREM', FREE[job], member)
    redis.call('ZREM', HELD[job], member)
  else
    redis.call('ZREM', 'hub:ended', member)
    redis.call('ZREM', 'hub:age', member)
  end
  redis.call('DECRBY', 'hub:bytes', size or 0)
  return job
end

-- Tell the other nodes, from this one.
local function tell(news, node, kind, id)
  redis.call('PUBLISH', news, node .. ' ' .. kind .. ' ' .. id)
end
