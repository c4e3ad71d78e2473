--- Shared head of every script: the clock, the epoch, and how a hold is written down.
--
-- A hold is one string in `fg:{bNNN}:holds:<account>`, field = hold id:
--   1|kind|state|amount|progress|tokens|limits|meta
-- kind call, api or arrears; state o (open) or c (claimed by a sweeper); amounts in microcredits; limits a comma list of
-- <limit window key>=<c|t|r|n> (credits, tokens, requests, concurrency); meta is the owner's own and comes last.
-- A value of another version is left alone (two releases side by side).
--
-- Limit windows `fg:{bNNN}:lim:<limit>:<window start>` are hashes: used, seq (absolutes from the book), held, extra
-- (admitted requests that ended without a record: not given back), epoch (in which used was last known to be right: a
-- lost tail brings back an older one).

local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000), t[1] .. string.format('%06d', tonumber(t[2]))
end

--- The bucket's epoch, read afresh; another one than before (or none: a wipe changes no id) begins a grace.
-- Returns {epoch, since_ms, ticket, calm}.
local function read_gate(key, now_ms, now_us)
  local epoch = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
  local g = redis.call('HMGET', key, 'epoch', 'since', 'ticket', 'calm')
  if g[1] == epoch then
    return { epoch = epoch, since = tonumber(g[2]), ticket = g[3], calm = g[4] == '1' }
  end
  local ticket = epoch .. ':' .. now_us
  redis.call('HSET', key, 'epoch', epoch, 'since', now_ms, 'ticket', ticket, 'calm', '0')
  return { epoch = epoch, since = now_ms, ticket = ticket, calm = false }
end

local function read_hold(text)
  if not text then return nil end
  local kind, state, amount, progress, tokens, limits, meta =
    string.match(text, '^1|(%a+)|(%a)|(%-?%d+)|(%-?%d+)|(%d+)|([^|]*)|(.*)$')
  if not kind then return nil end
  return { kind = kind, state = state, amount = amount, progress = progress, tokens = tokens, limits = limits, meta = meta }
end

local function write_hold(h)
  return table.concat({ '1', h.kind, h.state, h.amount, h.progress, h.tokens, h.limits, h.meta }, '|')
end

local function share_of(kind, hold)
  if kind == 'c' then return hold.amount end
  if kind == 't' then return hold.tokens end
  return '1'
end

--- An amount's negative for HINCRBY, which refuses "-0" (a hold of nothing: a free model).
local function minus(amount)
  return string.format('%.0f', 0 - tonumber(amount))
end

local LIMIT_IDLE_MS = 7 * 24 * 3600 * 1000

--- Count a hold in (sign 1) or out (sign -1) of its limit windows. Going out never creates a window.
local function move_limits(hold, sign, released)
  for key, kind in string.gmatch(hold.limits, '([^,=]+)=(%a)') do
    if sign > 0 or redis.call('EXISTS', key) == 1 then
      local amount = share_of(kind, hold)
      redis.call('HINCRBY', key, 'held', sign > 0 and amount or minus(amount))
      if released and kind == 'r' then redis.call('HINCRBY', key, 'extra', 1) end
      if redis.call('PTTL', key) < 0 then redis.call('PEXPIRE', key, LIMIT_IDLE_MS) end
    end
  end
end

--- Is the account's hash of this epoch? Only then does `held` follow the holds; else `rebuild` sums it anew.
local function warm(acct, epoch)
  return redis.call('HGET', acct, 'epoch') == epoch
end

local function drop_hold(acct, holds, due, member, id, hold, epoch, released)
  redis.call('HDEL', holds, id)
  redis.call('ZREM', due, member)
  if warm(acct, epoch) then redis.call('HINCRBY', acct, 'held', minus(hold.amount)) end
  move_limits(hold, -1, released)
end

--- Take the book's absolutes when they are newer than what is here (also on a cold account).
local function take_snapshot(acct, posted, seq, overdraft, fresh_until)
  local have = redis.call('HGET', acct, 'seq')
  if have and tonumber(have) >= tonumber(seq) then return end
  redis.call('HSET', acct, 'posted', posted, 'seq', seq, 'overdraft', overdraft, 'fresh_until', fresh_until)
end

--- Absolutes of limit windows: ARGV from `first` on, triples of key, used, seq. Never creates a window.
local function take_limits(first)
  for i = first, #ARGV, 3 do
    local have = redis.call('HGET', ARGV[i], 'seq')
    if have and tonumber(have) < tonumber(ARGV[i + 2]) then
      redis.call('HSET', ARGV[i], 'used', ARGV[i + 1], 'seq', ARGV[i + 2])
    end
  end
end
