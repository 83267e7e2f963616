-- Brings the stream's meta data up to date and leaves it in e, o, h, f; k is how long it is kept, if
-- a publish has said so. Forks are kept within 512 bytes, about 20 of them; whoever was
-- away for longer is not recovered. A history that is listed among the forks comes from a node that has not noticed a change yet, and
-- is ignored.
local history, fresh, keep_ms = ARGV[1], ARGV[2], ARGV[3]
local meta = redis.call('HMGET', KEYS[1], 'e', 'o', 'h', 'f', 'k')
local e, o, h, f, k = meta[1], meta[2], meta[3], meta[4], meta[5]
if not e then
  e, o, h, f = fresh, '0', history, ''
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'e', e, 'o', o, 'h', h, 'f', f)
elseif h ~= history and not string.find(f, history .. '@', 1, true) then
  f = f .. h .. '@' .. o .. ','
  h = history
  while #f > 512 do f = string.gsub(f, '^[^,]*,', '') end
  redis.call('HSET', KEYS[1], 'h', h, 'f', f)
end
