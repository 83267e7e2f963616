-- Writes a record if its conditions hold. Keys: fields (hash), members (sorted set).
-- Arguments after the history: TTL in ms or 0, number of conditions, three for each condition, three for each change.
local fields, members = KEYS[1], KEYS[2]
local present = redis.call('EXISTS', fields, members) > 0
local holds = {
  absent = function() return not present end,
  present = function() return present end,
  field_absent = function(name) return redis.call('HEXISTS', fields, name) == 0 end,
  field_present = function(name) return redis.call('HEXISTS', fields, name) == 1 end,
  field_is = function(name, value) return redis.call('HGET', fields, name) == value end,
  fields_below = function(count) return redis.call('HLEN', fields) < tonumber(count) end,
  members_below = function(count) return redis.call('ZCARD', members) < tonumber(count) end,
}
local apply = {
  set = function(name, value) redis.call('HSET', fields, name, value) end,
  raise = function(name, to)
    local now = tonumber(redis.call('HGET', fields, name) or nil)
    if not now or now < tonumber(to) then redis.call('HSET', fields, name, to) end
  end,
  add = function(name, by) redis.call('HINCRBY', fields, name, by) end,
  remove = function(name) redis.call('HDEL', fields, name) end,
  rank = function(member, score) redis.call('ZADD', members, score, member) end,
  unrank = function(member) redis.call('ZREM', members, member) end,
  clear = function() redis.call('DEL', fields, members) end,
}
local last = 3 + 3 * tonumber(ARGV[3])
for i = 4, last, 3 do
  if not holds[ARGV[i]](ARGV[i + 1], ARGV[i + 2]) then return 0 end
end
for i = last + 1, #ARGV, 3 do apply[ARGV[i]](ARGV[i + 1], ARGV[i + 2]) end
if ARGV[2] ~= '0' then
  redis.call('PEXPIRE', fields, ARGV[2])
  redis.call('PEXPIRE', members, ARGV[2])
end
return 1
