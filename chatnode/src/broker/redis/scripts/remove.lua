-- Takes a connection off the members and counts its user down.
local function remove(client)
  local member = redis.call('HGET', KEYS[1], client)
  if member then
    local length, start = string.match(member, '^(%d+):()')
    local user = string.sub(member, start, start + length - 1)
    if redis.call('HINCRBY', KEYS[3], user, -1) < 1 then redis.call('HDEL', KEYS[3], user) end
    redis.call('HDEL', KEYS[1], client)
  end
  redis.call('ZREM', KEYS[2], client)
end
