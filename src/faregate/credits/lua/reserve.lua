--- Check the balance and every limit, and take them all or none.
--
-- KEYS  gate, account, holds, due, key
-- ARGV  1 hold id · 2 member of `due` · 3 kind · 4 key rev · 5 want · 6 floor (microcredits) · 7 want · 8 floor (tokens)
--       9 share (permille) · 10 ttl ms · 11 grace ms · 12 forced (0|1) · 13 progress · 14 meta
--       then for each limit: window key, c|t|r|n, max, window start ms, window end ms
-- Reply {ok, granted, tokens, rest of each limit...} · {duplicate, granted, tokens} · {swept} · {recheck} · {cold, ticket} · {grace, ms}
--       {refresh} · {window, now ms} · {insufficient, available} · {limited, index, retry ms}
--
-- A window that is missing (or of another epoch) is new when it began after this gate did: nothing can have been
-- booked in it unseen. Else the book must be read: cold. A key's rev counts only in the epoch it was told in.

local FIRST_LIMIT = 15
local now, now_us = clock()
local gate = read_gate(KEYS[1], now, now_us)
local id, member = ARGV[1], ARGV[2]

local text = redis.call('HGET', KEYS[3], id)
if text then
  local hold = read_hold(text)
  if not hold or hold.state ~= 'o' then return { 'swept' } end
  return { 'duplicate', hold.amount, hold.tokens }
end

if ARGV[4] ~= '' and redis.call('GET', KEYS[5]) ~= ARGV[4] .. ':' .. gate.epoch then return { 'recheck' } end

local a = redis.call('HMGET', KEYS[2], 'posted', 'held', 'overdraft', 'fresh_until', 'epoch', 'gated')
if not a[1] or a[5] ~= gate.epoch then return { 'cold', gate.ticket } end
local grace_ends = gate.since + tonumber(ARGV[11])
if now < grace_ends and a[6] == '1' and not gate.calm then return { 'grace', tostring(grace_ends - now) } end
if tonumber(a[4]) > 0 and now >= tonumber(a[4]) then return { 'refresh' } end

local want, floor, want_tokens, floor_tokens = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local share, forced = tonumber(ARGV[9]), ARGV[12] == '1'
local available, available_tokens = tonumber(a[1]) - tonumber(a[2]) + tonumber(a[3]), nil
local tightest, tightest_tokens = nil, nil
local rests = {}

for i = FIRST_LIMIT, #ARGV, 5 do
  local kind, starts, ends = ARGV[i + 1], tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4])
  if now < starts or now >= ends then return { 'window', tostring(now) } end
  local l = redis.call('HMGET', ARGV[i], 'used', 'held', 'extra', 'epoch')
  if kind ~= 'n' and l[4] ~= gate.epoch and gate.since >= starts then return { 'cold', gate.ticket } end
  local used = tonumber(l[1] or 0)
  local rest = tonumber(ARGV[i + 2]) - used - tonumber(l[2] or 0) - tonumber(l[3] or 0)
  rests[#rests + 1] = rest
  if kind == 'c' then
    if rest < available then available, tightest = rest, i end
  elseif kind == 't' then
    if not available_tokens or rest < available_tokens then available_tokens, tightest_tokens = rest, i end
  elseif rest < 1 and not forced then
    return { 'limited', tostring((i - FIRST_LIMIT) / 5), string.format('%.0f', kind == 'n' and 0 or ends - now) }
  end
end

local function refused(i)
  return { 'limited', tostring((i - FIRST_LIMIT) / 5), string.format('%.0f', tonumber(ARGV[i + 4]) - now) }
end

local granted, tokens = want, want_tokens
if not forced and want > 0 then -- What costs nothing fits everywhere, also below zero.
  if floor > available then
    if tightest then return refused(tightest) end
    return { 'insufficient', string.format('%.0f', available) }
  end
  granted = math.min(want, math.max(floor, math.floor(available * share / 1000)), available)
end
if not forced and available_tokens then
  if floor_tokens > available_tokens then return refused(tightest_tokens) end
  tokens = math.min(want_tokens, math.max(floor_tokens, math.floor(available_tokens * share / 1000)), available_tokens)
end

local limits = {}
for i = FIRST_LIMIT, #ARGV, 5 do
  local key, kind, starts, ends = ARGV[i], ARGV[i + 1], ARGV[i + 3], tonumber(ARGV[i + 4])
  limits[#limits + 1] = key .. '=' .. kind
  if redis.call('HGET', key, 'epoch') ~= gate.epoch then
    redis.call('HSETNX', key, 'used', '0')
    redis.call('HSETNX', key, 'seq', '0')
    redis.call('HSET', key, 'epoch', gate.epoch)
  end
  redis.call('PEXPIREAT', key, string.format('%.0f', starts == '0' and now + LIMIT_IDLE_MS or ends + LIMIT_IDLE_MS))
end
local hold = {
  kind = ARGV[3], state = 'o', amount = string.format('%.0f', granted), progress = ARGV[13],
  tokens = string.format('%.0f', tokens), limits = table.concat(limits, ','), meta = ARGV[14],
}
redis.call('HSET', KEYS[3], id, write_hold(hold))
redis.call('ZADD', KEYS[4], string.format('%.0f', now + tonumber(ARGV[10])), member)
redis.call('HINCRBY', KEYS[2], 'held', hold.amount)
move_limits(hold, 1, false)
local reply = { 'ok', hold.amount, hold.tokens }
for n, rest in ipairs(rests) do
  reply[n + 3] = string.format('%.0f', rest - tonumber(share_of(ARGV[FIRST_LIMIT + (n - 1) * 5 + 1], hold)))
end
return reply
