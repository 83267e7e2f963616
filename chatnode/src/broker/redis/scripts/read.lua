-- State and publications. Arguments after those of touch: limit, exclusive start or -, 1 for newest first.
-- Returns epoch, history, forks, top, entries. Reading keeps the meta data alive, but does not write each time it is done.
local keep = k or keep_ms
if redis.call('PTTL', KEYS[1]) < keep * 0.9 then redis.call('PEXPIRE', KEYS[1], keep) end
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
