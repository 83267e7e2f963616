-- Keys: members (hash: connection → <length of user>:<user><info>), expiry (sorted set: connection → when), users (hash: user → connections).
-- Arguments after the history: client, user, info, TTL. Time is Redis's own, as the nodes' clocks may differ.
local now = redis.call('TIME')
local expires = now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[5]
local client, user = ARGV[2], ARGV[3]
if redis.call('HSET', KEYS[1], client, #user .. ':' .. user .. ARGV[4]) == 1 then
  redis.call('HINCRBY', KEYS[3], user, 1)
end
redis.call('ZADD', KEYS[2], expires, client)
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[5]) end
return 1
