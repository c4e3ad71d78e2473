--- The heartbeat of one hold: an absolute amount, so repeatable.
--
-- KEYS  gate, account, holds, due
-- ARGV  1 hold id · 2 member of `due` · 3 amount ('' leaves it) · 4 ttl ms · 5 progress ('' leaves it)
-- Reply ok · no_hold (Redis lost it: re-assert) · swept (a sweeper has begun to close it)

local now, now_us = clock()
local gate = read_gate(KEYS[1], now, now_us)
local text = redis.call('HGET', KEYS[3], ARGV[1])
if not text then return 'no_hold' end
local hold = read_hold(text)
if not hold or hold.state ~= 'o' then return 'swept' end

redis.call('ZADD', KEYS[4], string.format('%.0f', now + tonumber(ARGV[4])), ARGV[2])
if (ARGV[3] == '' or ARGV[3] == hold.amount) and (ARGV[5] == '' or ARGV[5] == hold.progress) then return 'ok' end
if ARGV[3] ~= '' and ARGV[3] ~= hold.amount then
  local more = string.format('%.0f', tonumber(ARGV[3]) - tonumber(hold.amount))
  if warm(KEYS[2], gate.epoch) then redis.call('HINCRBY', KEYS[2], 'held', more) end
  for key, kind in string.gmatch(hold.limits, '([^,=]+)=(%a)') do
    if kind == 'c' and redis.call('EXISTS', key) == 1 then redis.call('HINCRBY', key, 'held', more) end
  end
  hold.amount = ARGV[3]
end
if ARGV[5] ~= '' then hold.progress = ARGV[5] end
redis.call('HSET', KEYS[3], ARGV[1], write_hold(hold))
return 'ok'
