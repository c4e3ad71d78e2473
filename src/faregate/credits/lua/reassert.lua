--- Put back a hold that Redis lost. No check: it only tightens. Never called once its closing has begun.
--
-- KEYS  gate, account, holds, due
-- ARGV  1 hold id · 2 member of `due` · 3 kind · 4 amount · 5 ttl ms · 6 progress · 7 tokens · 8 limits (key=kind,...) · 9 meta
-- Reply ok · swept

local now, now_us = clock()
local gate = read_gate(KEYS[1], now, now_us)
local text = redis.call('HGET', KEYS[3], ARGV[1])
if text then
  local hold = read_hold(text)
  return (hold and hold.state == 'o') and 'ok' or 'swept'
end
local hold = {
  kind = ARGV[3], state = 'o', amount = ARGV[4], progress = ARGV[6], tokens = ARGV[7], limits = ARGV[8], meta = ARGV[9],
}
redis.call('HSET', KEYS[3], ARGV[1], write_hold(hold))
redis.call('ZADD', KEYS[4], string.format('%.0f', now + tonumber(ARGV[5])), ARGV[2])
if warm(KEYS[2], gate.epoch) then redis.call('HINCRBY', KEYS[2], 'held', hold.amount) end
move_limits(hold, 1, false)
return 'ok'
