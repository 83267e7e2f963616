-- Generic cell rate algorithm. Key: the time, in microseconds, at which everything counted so far has worn off.
-- Arguments after the history: burst, microseconds between two, cost. Returns 1 and 0, or 0 and the microseconds to wait.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local burst, every, cost = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
local next = arrival + every * cost
local wait = next - every * burst - now
if wait > 0 then return {0, wait} end
redis.call('SET', KEYS[1], string.format('%.0f', next), 'PX', math.ceil((next - now) / 1000) + 1)
return {1, 0}
