-- Next offset, append, tell the nodes. Keys: meta, log, and what remembers the idempotency key if there is one.
-- Arguments after those of touch: size, TTL, pub/sub command, pub/sub channel, body, TTL of the idempotency key, number and epoch of the
-- version or two times ''. Returns offset, epoch as clients see it, 1 if it was suppressed.
-- The time to live of the meta data is renewed even then: WAIT covers only what this connection has written. But not first of all:
-- without memory Redis refuses the first write of a script if it takes some, and no later one.
local body, version = ARGV[8], ARGV[10]
if KEYS[3] then
  local first = redis.call('GET', KEYS[3])
  if first then
    local offset, epoch = string.match(first, '^(%d+) (.*)$')
    redis.call('PEXPIRE', KEYS[1], keep_ms)
    return {offset, epoch, 1}
  end
end
local visible = e .. '.' .. h
if version ~= '' then
  local known = redis.call('HMGET', KEYS[1], 'v', 'w')
  if known[1] and known[2] == ARGV[11] and tonumber(version) <= tonumber(known[1]) then
    redis.call('PEXPIRE', KEYS[1], keep_ms)
    return {'0', visible, 1}
  end
  redis.call('HSET', KEYS[1], 'v', version, 'w', ARGV[11])
end
o = string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'o', 1))
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[4], o .. '-0', 'p', body)
if k ~= keep_ms then redis.call('HSET', KEYS[1], 'k', keep_ms) end
redis.call('PEXPIRE', KEYS[1], keep_ms)
redis.call('PEXPIRE', KEYS[2], ARGV[5])
redis.call(ARGV[6], ARGV[7], 'p ' .. o .. ' ' .. e .. ' ' .. h .. ' ' .. (f == '' and '-' or f) .. ' ' .. body)
if KEYS[3] then
  redis.call('SET', KEYS[3], o .. ' ' .. visible, 'PX', ARGV[9])
end
return {o, visible, 0}
