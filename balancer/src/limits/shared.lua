-- Adds what several balancers have let pass to the buckets they share, and says for how long each is not full.
--
-- KEYS: a bucket each. ARGV: for each key, by how much time it is emptied and how much time an empty one needs to fill, in microseconds.
-- A bucket is the time at which it is full again, by this server's clock, and goes when it is.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local left = {}
for i, key in ipairs(KEYS) do
  local used, depth = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local full = math.max(tonumber(redis.call('GET', key) or 0), now)
  full = math.min(full + used, now + depth)
  left[i] = math.floor(full - now)
  redis.call('SET', key, string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000) + 1)
end
return left
