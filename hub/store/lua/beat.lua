-- ARGV: node, state, milliseconds. Gives the names and the states of the nodes that are alive. The
-- time is Redis's own: a node's clock does not decide whether others are alive.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[3] == '0' then
  redis.call('HDEL', 'hub:nodes', ARGV[1])
else
  redis.call('HSET', 'hub:nodes', ARGV[1], string.format('%016d', now + ARGV[3]) .. ARGV[2])
end
local alive = {}
local nodes = redis.call('HGETALL', 'hub:nodes')
for at = 1, #nodes, 2 do
  if tonumber(string.sub(nodes[at + 1], 1, 16)) > now then
    alive[#alive + 1] = nodes[at]
    alive[#alive + 1] = string.sub(nodes[at + 1], 17)
  else
    redis.call('HDEL', 'hub:nodes', nodes[at])
  end
end
return alive
