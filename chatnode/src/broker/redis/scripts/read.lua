-- State and publications. Arguments after those of touch: limit, exclusive start or -, 1 for newest first.
-- Returns epoch, history, forks, top, entries. It always writes: a server that was made a replica must refuse it, not answer from
-- what it has.
redis.call('PEXPIRE', KEYS[1], k or keep_ms)
local limit, since, reverse = tonumber(ARGV[4]), ARGV[5], ARGV[6] == '1'
local entries = {}
if limit > 0 then
  if reverse then
    local from = since == '-' and '+' or '(' .. since .. '-0'
    entries = redis.call('XREVRANGE', KEYS[2], from, '-', 'COUNT', limit)
  else
    local from = since == '-' and '-' or '(' .. since .. '-0'
    entries = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', limit)
  end
end
return {e, h, f, o, entries}
