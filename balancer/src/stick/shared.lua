-- Tells other balancers where clients have been, and hears it from them.
--
-- KEYS: the stream of a pool, whose entries are a client and its server; their age is the age of what they say. ARGV: how long that holds,
-- in milliseconds; how many entries are kept; how many are read; after which one; then each client and its server.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if #ARGV > 4 then
  for i = 5, #ARGV, 2 do
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', ARGV[i], ARGV[i + 1])
  end
  redis.call('XTRIM', KEYS[1], 'MINID', '~', string.format('%.0f', now - ARGV[1]))
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return {string.format('%.0f', now), redis.call('XRANGE', KEYS[1], '(' .. ARGV[4], '+', 'COUNT', ARGV[3])}
