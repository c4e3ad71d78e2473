--- Warm an account from the book. Only with the ticket of a `cold` answer, so that the book was read after the loss.
--
-- KEYS  gate, account, holds, due
-- ARGV  1 ticket · 2 posted · 3 seq · 4 overdraft · 5 fresh_until ms · 6 gated (0|1)
--       7 number of pending reservations, each: hold id, member, ttl ms, hold text
--       then for each limit window: key, used, seq, expiry (ms since 1970)
-- Reply ok · stale

local now, now_us = clock()
local gate = read_gate(KEYS[1], now, now_us)
if gate.ticket ~= ARGV[1] then return 'stale' end
local again = warm(KEYS[2], gate.epoch)
take_snapshot(KEYS[2], ARGV[2], ARGV[3], ARGV[4], ARGV[5])

local next_arg, pending = 8, {}
for _ = 1, tonumber(ARGV[7]) do
  local new = redis.call('HSETNX', KEYS[3], ARGV[next_arg], ARGV[next_arg + 3]) == 1
  if new then move_limits(read_hold(ARGV[next_arg + 3]), 1, false) end
  if new or not again then -- What a lost tail brings back has an older deadline than the book.
    redis.call('ZADD', KEYS[4], string.format('%.0f', now + tonumber(ARGV[next_arg + 2])), ARGV[next_arg + 1])
  end
  pending[ARGV[next_arg]] = true
  next_arg = next_arg + 4
end
if not again then -- A reservation the book has ended came back with the tail, or is not in the book yet: look at once.
  local account = string.match(KEYS[2], ':acct:(.*)$')
  for _, id in ipairs(redis.call('HKEYS', KEYS[3])) do
    if string.sub(id, 1, 4) == 'res_' and not pending[id] then
      redis.call('ZADD', KEYS[4], string.format('%.0f', now), account .. '|' .. id)
    end
  end
end

for i = next_arg, #ARGV, 4 do
  local have = redis.call('HGET', ARGV[i], 'seq')
  if not have or tonumber(have) < tonumber(ARGV[i + 2]) then
    redis.call('HSET', ARGV[i], 'used', ARGV[i + 1], 'seq', ARGV[i + 2])
  end
  redis.call('HSET', ARGV[i], 'epoch', gate.epoch)
  redis.call('PEXPIREAT', ARGV[i], ARGV[i + 3])
end

local held = 0
for _, text in ipairs(redis.call('HVALS', KEYS[3])) do
  local hold = read_hold(text)
  if hold then held = held + tonumber(hold.amount) end
end
redis.call('HSET', KEYS[2], 'held', string.format('%.0f', held), 'epoch', gate.epoch)
if not again then redis.call('HSET', KEYS[2], 'gated', ARGV[6]) end
return 'ok'
