--- The sweeper's first step: only a hold that is still due. From then on release and extend answer `swept`.
--
-- KEYS  gate, account, holds, due
-- ARGV  1 hold id · 2 member of `due` · 3 ttl ms (after which another sweeper may claim it again)
-- Reply {claimed, hold} · {early} · {gone}

local now, now_us = clock()
read_gate(KEYS[1], now, now_us)
local deadline = redis.call('ZSCORE', KEYS[4], ARGV[2])
if not deadline or tonumber(deadline) > now then return { 'early' } end
local text = redis.call('HGET', KEYS[3], ARGV[1])
if not text then
  redis.call('ZREM', KEYS[4], ARGV[2])
  return { 'gone' }
end
local hold = read_hold(text)
if not hold then return { 'early' } end
hold.state = 'c'
text = write_hold(hold)
redis.call('HSET', KEYS[3], ARGV[1], text)
redis.call('ZADD', KEYS[4], string.format('%.0f', now + tonumber(ARGV[3])), ARGV[2])
return { 'claimed', text }
