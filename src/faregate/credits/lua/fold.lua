--- While SQL is away: move a journaled charge from its own hold into its process's arrears hold of the account.
--
-- One hold then stands for all of them, so an outage does not grow the heartbeat. Only for holds without limit
-- windows (those keep their own hold, since a window's `held` must name them).
--
-- KEYS  gate, account, holds, due, arrears list
-- ARGV  1 hold id · 2 its member of `due` · 3 arrears id · 4 its member of `due` · 5 charge · 6 ttl ms · 7 the record
-- Reply ok · swept (somebody has begun to close one of the two)

local now, now_us = clock()
local gate = read_gate(KEYS[1], now, now_us)
local own = read_hold(redis.call('HGET', KEYS[3], ARGV[1]))
if own and own.state ~= 'o' then return 'swept' end
local arrears = read_hold(redis.call('HGET', KEYS[3], ARGV[3]))
if arrears and arrears.state ~= 'o' then return 'swept' end

if redis.call('HSETNX', KEYS[5], ARGV[1], ARGV[5] .. '|' .. ARGV[7]) == 1 or not arrears then
  arrears = arrears or { kind = 'arrears', state = 'o', amount = '0', progress = '0', tokens = '0', limits = '', meta = '' }
  arrears.amount = string.format('%.0f', tonumber(arrears.amount) + tonumber(ARGV[5]))
  redis.call('HSET', KEYS[3], ARGV[3], write_hold(arrears))
  if warm(KEYS[2], gate.epoch) then redis.call('HINCRBY', KEYS[2], 'held', ARGV[5]) end
end
redis.call('ZADD', KEYS[4], string.format('%.0f', now + tonumber(ARGV[6])), ARGV[4])
if own then drop_hold(KEYS[2], KEYS[3], KEYS[4], ARGV[2], ARGV[1], own, gate.epoch, false) end
return 'ok'
