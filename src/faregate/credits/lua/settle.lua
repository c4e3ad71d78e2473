--- Apply what the book says and drop the hold's own amount if it is there. Any order, any number of times.
--
-- KEYS  gate, account, holds, due
-- ARGV  1 hold id ('' for none) · 2 member of `due` · 3 posted · 4 seq · 5 overdraft · 6 fresh_until ms
--       then triples: limit window key, used, seq
-- Reply ok

local now, now_us = clock()
local gate = read_gate(KEYS[1], now, now_us)
take_snapshot(KEYS[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
take_limits(7)
if ARGV[1] == '' then return 'ok' end
local hold = read_hold(redis.call('HGET', KEYS[3], ARGV[1]))
if hold then drop_hold(KEYS[2], KEYS[3], KEYS[4], ARGV[2], ARGV[1], hold, gate.epoch, false) end
return 'ok'
