--- The bucket's epoch, for owners: another one than last time means that holds and closes may have been lost.
--
-- KEYS  gate
-- ARGV  1 ticket ('' to look only): this gate needs no grace, since every journal has been replayed since it was seen
--         and nobody else was in here. Another gate than that one is left alone.
-- Reply {epoch, ticket}

local now, now_us = clock()
local gate = read_gate(KEYS[1], now, now_us)
if ARGV[1] == gate.ticket then redis.call('HSET', KEYS[1], 'calm', '1') end
return { gate.epoch, gate.ticket }
