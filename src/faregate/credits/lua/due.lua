--- What is due in a bucket, for the one sweeper that holds its lease. Keeps the gate of an idle bucket, too.
--
-- KEYS  gate, due, sweeper lease
-- ARGV  1 sweeper's name · 2 lease ms · 3 most members
-- Reply {epoch} followed by members of `due`, oldest first; only {epoch} when another sweeper has the lease

local now, now_us = clock()
local gate = read_gate(KEYS[1], now, now_us)
local owner = redis.call('GET', KEYS[3])
if owner and owner ~= ARGV[1] then return { gate.epoch } end
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
local members = redis.call('ZRANGE', KEYS[2], '-inf', string.format('%.0f', now), 'BYSCORE', 'LIMIT', 0, ARGV[3])
table.insert(members, 1, gate.epoch)
return members
