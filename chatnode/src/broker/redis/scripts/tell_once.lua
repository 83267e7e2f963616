-- Tells the nodes what is not kept, once for each idempotency key. Key: what remembers it.
-- Arguments after the history: pub/sub command, pub/sub channel, body, TTL of the idempotency key. Returns as publish does.
if not redis.call('SET', KEYS[1], '0 ', 'NX', 'PX', ARGV[5]) then
  return {'0', '', 1}
end
redis.call(ARGV[2], ARGV[3], 'p 0 - - - ' .. ARGV[4])
return {'0', '', 0}
