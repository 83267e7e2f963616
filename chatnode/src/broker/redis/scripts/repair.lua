-- After a change of the replication history: what the old one had is written again where it is missing.
-- Keys: meta, log, and the prefix of those that remember idempotency keys.
-- Arguments after the history: fresh epoch, meta TTL, epoch and history of what is held, 1 if this is the last attempt, pub/sub command,
-- pub/sub channel, offset of the first publication held, offset of the last one, the bodies from the first one on (none: only look).
-- Returns epoch, history, up to where the old history is contained in the present one, how many were put back in their place, how many
-- were appended because their place was taken, 1 if the stream had to begin anew, 1 if another attempt is wanted.
--
-- What was published under the new history already has taken the offsets of what was lost. It stays where it is. What was lost is
-- appended behind it, and positions past the fork do not continue.
local history, fresh, keep_ms, old_epoch, old = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local last_attempt, command, channel = ARGV[6] == '1', ARGV[7], ARGV[8]
local first, last, bodies = tonumber(ARGV[9]), tonumber(ARGV[10]), 10
local function digits(number) return string.format('%.0f', number) end

local meta = redis.call('HMGET', KEYS[1], 'e', 'o', 'h', 'f', 'k')
local e, o, h, f, keep = meta[1], tonumber(meta[2]), meta[3], meta[4], meta[5] or keep_ms
if not e then
  if #ARGV == bodies then return {old_epoch, history, '0', 0, 0, 0, 1} end
  -- The whole stream is missing: it goes on from where what is held begins.
  e, o, h, f = old_epoch, first - 1, history, old .. '@' .. digits(first - 1) .. ','
  redis.call('DEL', KEYS[2])
elseif h ~= history and not string.find(f, history .. '@', 1, true) then
  f = f .. h .. '@' .. digits(o) .. ','
  h = history
end
local reached
if e == old_epoch then
  reached = h == old and last or tonumber(string.match(f, old .. '@(%d+),'))
end
-- What is known to have been there once, though the epoch is another one now: another node has begun the stream anew.
local floor = reached
if not reached then
  local before = redis.call('HGET', KEYS[1], 'b') or ''
  floor = tonumber(string.match(before, '^' .. old_epoch .. '%.' .. old .. '@(%d+)$'))
end
local put_back, appended, anew, again = 0, 0, 0, 0
local news = {}
if #ARGV > bodies and not (reached and reached >= last) then
  if reached and reached + 1 < first then
    -- Another node may hold what is between.
    if last_attempt then
      redis.call('HSET', KEYS[1], 'b', old_epoch .. '.' .. old .. '@' .. digits(reached))
      e, f, reached, anew = fresh, '', nil, 1
    else
      again = 1
    end
  end
  if again == 0 then
    local function id(body)
      local data, info, tags, at = string.match(body, '^%d+ %d+ %d+ %d+ %d+ (%d+) (%d+) (%d+)\n()')
      return string.sub(body, at + data + info + tags)
    end
    local present = {}
    local down_to = reached and digits(reached + 1) or '-'
    for _, entry in ipairs(redis.call('XREVRANGE', KEYS[2], '+', down_to, 'COUNT', 1000)) do
      present[id(entry[2][2])] = tonumber(string.match(entry[1], '^%d+'))
    end
    for i = bodies + 1, #ARGV do
      local offset, body = first + i - bodies - 1, ARGV[i]
      if offset > (reached or floor or 0) then
        local at = present[id(body)]
        if not at then
          o = o + 1
          at = o
          local once_ms, size, ttl = string.match(body, '^%d+ %d+ (%d+) (%d+) (%d+)')
          redis.call('XADD', KEYS[2], 'MAXLEN', size, digits(o) .. '-0', 'p', body)
          redis.call('PEXPIRE', KEYS[2], ttl)
          if once_ms ~= '0' then
            redis.call('SET', KEYS[3] .. id(body), digits(o) .. ' ' .. e .. '.' .. h, 'PX', once_ms)
          end
          news[#news + 1] = {o, body}
          if reached and at == offset and at == reached + 1 then
            put_back = put_back + 1
          else
            appended = appended + 1
          end
        end
        if reached and at == offset and at == reached + 1 then reached = at end
      end
    end
  end
  if reached then f = string.gsub(f, old .. '@%d+,', old .. '@' .. digits(reached) .. ',') end
end
while #f > 512 do f = string.gsub(f, '^[^,]*,', '') end
redis.call('HSET', KEYS[1], 'e', e, 'o', digits(o), 'h', h, 'f', f)
redis.call('PEXPIRE', KEYS[1], keep)
for _, new in ipairs(news) do
  local head = 'p ' .. digits(new[1]) .. ' ' .. e .. ' ' .. h .. ' ' .. (f == '' and '-' or f) .. ' '
  redis.call(command, channel, head .. new[2])
end
return {e, h, digits(reached or 0), put_back, appended, anew, again}
