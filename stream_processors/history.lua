-- The history lane: which documents each user did something with, and when last.
-- What it writes only ever grows towards the newest time, so that events may come in any order and as often as they
-- like. Its keys belong to no generation: what the log has lost since stays, and a rebuild adds what it still has.

-- ARGV  6 how long an event is kept, in ms   7 documents of a user and signal at most
--       then groups: `signal:user`, number of documents, for each of them time in ms and name

local function consume(key, args, first, last, window, most)
  local newest = 0
  for from = first, last, BATCH do
    redis.call('ZADD', key, 'GT', unpack(args, from, math.min(from + BATCH - 1, last)))
  end
  for n = first, last, 2 do newest = math.max(newest, tonumber(args[n])) end
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('(%d', newest - window))
  redis.call('ZREMRANGEBYRANK', key, 0, -most - 1)
  local ends = string.format('%d', newest + window)
  -- To GT a key that has no end yet ends never.
  if redis.call('PEXPIREAT', key, ends, 'GT') == 0 then redis.call('PEXPIREAT', key, ends, 'NX') end
end

register_lane('clickwell1_history', function(prefix, args)
  local home = string.match(prefix, '^cw1:{s%d+}:') .. 'h:'
  local window, most, i = tonumber(args[6]), tonumber(args[7]), 8
  while args[i] do
    local many = tonumber(args[i + 1])
    consume(home .. args[i], args, i + 2, i + 1 + 2 * many, window, most)
    i = i + 2 + 2 * many
  end
end)

-- KEYS  1 what a user did by one signal
-- ARGV  1, 2 as 6, 7 above   then for each document time in ms and name
redis.register_function('clickwell1_history_fill', function(keys, args)
  consume(keys[1], args, 3, #args, tonumber(args[1]), tonumber(args[2]))
  return redis.status_reply('OK')
end)

-- KEYS  1 what a user did by one signal
-- ARGV  1 document   2 time of an event that is taken back   3 time of the newest one that remains, empty for none
-- Reply 1 when something changed, 0 when a newer event stands there, or nothing.
redis.register_function('clickwell1_history_retract', function(keys, args)
  local at = redis.call('ZSCORE', keys[1], args[1])
  if not at or tonumber(at) > tonumber(args[2]) then return 0 end
  if args[3] == '' then return redis.call('ZREM', keys[1], args[1]) end
  redis.call('ZADD', keys[1], args[3], args[1])
  return 1
end)
