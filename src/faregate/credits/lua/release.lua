--- End a hold whose truth is zero. Admitted requests stay counted.
--
-- KEYS  gate, account, holds, due
-- ARGV  1 hold id · 2 member of `due`
-- Reply ok · no_hold · swept. After either of the last two the owner commits a truth of zero.

local now, now_us = clock()
local gate = read_gate(KEYS[1], now, now_us)
local text = redis.call('HGET', KEYS[3], ARGV[1])
if not text then return 'no_hold' end
local hold = read_hold(text)
if not hold or hold.state ~= 'o' then return 'swept' end
drop_hold(KEYS[2], KEYS[3], KEYS[4], ARGV[2], ARGV[1], hold, gate.epoch, true)
return 'ok'
