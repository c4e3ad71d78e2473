--- Tell Redis a key's rev; an older one never replaces a newer one.
--
-- KEYS  key
-- ARGV  1 rev
-- Reply the rev that is in force

local have = redis.call('GET', KEYS[1])
if have and tonumber(have) >= tonumber(ARGV[1]) then return have end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
