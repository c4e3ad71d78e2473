--- The bucket's epoch, for owners: another one than last time means that holds and closes may have been lost.
--
-- KEYS  gate
-- ARGV  1 calm (1: every journal has been replayed and nobody else was in here, so this gate needs no grace)
-- Reply the epoch

local now, now_us = clock()
local gate = read_gate(KEYS[1], now, now_us)
if ARGV[1] == '1' then redis.call('HSET', KEYS[1], 'calm', '1') end
return gate.epoch
