--- Tell Redis a key's rev; an older one never replaces a newer one.
--
-- Written as <rev>:<epoch>: after a loss a revocation may be missing, so every key is read from the book again.
--
-- KEYS  key
-- ARGV  1 rev
-- Reply the rev that is in force

local epoch = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
local have = string.match(redis.call('GET', KEYS[1]) or '', '^%d+')
local rev = ARGV[1]
if have and tonumber(have) > tonumber(rev) then rev = have end
redis.call('SET', KEYS[1], rev .. ':' .. epoch)
return rev
