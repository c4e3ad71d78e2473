--- The book has a folded charge: apply its absolutes and take the charge out of the arrears, if it is there.
--
-- KEYS  gate, account, holds, due, arrears list
-- ARGV  1 hold id · 2 its member of `due` · 3 arrears id · 4 its member of `due` · 5 posted · 6 seq · 7 overdraft
--       8 fresh_until ms
-- Reply ok

local now, now_us = clock()
local gate = read_gate(KEYS[1], now, now_us)
take_snapshot(KEYS[2], ARGV[5], ARGV[6], ARGV[7], ARGV[8])
local own = read_hold(redis.call('HGET', KEYS[3], ARGV[1]))
if own then drop_hold(KEYS[2], KEYS[3], KEYS[4], ARGV[2], ARGV[1], own, gate.epoch, false) end
local item = redis.call('HGET', KEYS[5], ARGV[1])
if not item then return 'ok' end

local charge = string.match(item, '^(%d+)|')
redis.call('HDEL', KEYS[5], ARGV[1])
local arrears = read_hold(redis.call('HGET', KEYS[3], ARGV[3]))
if not arrears then return 'ok' end
if redis.call('EXISTS', KEYS[5]) == 0 then
  drop_hold(KEYS[2], KEYS[3], KEYS[4], ARGV[4], ARGV[3], arrears, gate.epoch, false)
  return 'ok'
end
arrears.amount = string.format('%.0f', tonumber(arrears.amount) - tonumber(charge))
redis.call('HSET', KEYS[3], ARGV[3], write_hold(arrears))
if warm(KEYS[2], gate.epoch) then redis.call('HINCRBY', KEYS[2], 'held', minus(charge)) end
return 'ok'
