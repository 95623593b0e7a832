-- The engagement lane: what was shown, clicked, skipped and converted, in hourly and daily windows by position, query and
-- document.

-- Workers say what is to be known of each search from now on, what they take for known, and what tables gain if that is
-- so. Here it is compared; nothing of it is understood. A window's tables are hashes: of hours while these are recent, of
-- days for what is older; see `fold`.

-- ARGV  6 length of a dedup bucket in ms   7 dedup buckets in a bucket of searches   8 days that hourly windows live
--       9 days that daily windows live   10 rows of one table at most
--      11 number of searches of which something is taken back, then of each its id, the first and the last bucket in which
--         it may be known, 1 if it is known in the present one from now on, what is taken for known, what is to be known
--         number of searches of which something is taken for known, then of each its index and that
--         number of searches, then of each its id and what is to be known
--         then tables: position, query or document, hour, number of rows, gains of all rows, names of rows...
-- Reply {KNOWN, {index of a search from 0, what is known of it in each bucket...}...} where something else is known

local DAY_MS = 86400000
local FACTS_LIFE = 172800 -- seconds beside three buckets; as for ids, for partitions that never move on
-- Of a row: exposures, clicks, skips, conversions; by document also those at the first positions.
local ONE, TWO = '<i4i4i4i4', '<i4i4i4i4i4i4i4i4'

local MOST_SUMS = 4096 -- some 0.5 MB

-- Sums that came up, by gain and row: small counts are by far the most frequent, and struct takes ten times as long.
local sums, many_sums = {}, 0

-- A row and its gain, as it is stored. A part of a window may be below zero, where only its sum is not.
local function sum(row, gain)
  local of_gain = sums[gain]
  if of_gain and of_gain[row] then return of_gain[row] end
  local total
  if #row == 16 then
    local a, b, c, d = struct.unpack(ONE, row)
    local e, f, g, h = struct.unpack(ONE, gain)
    total = struct.pack(ONE, a + e, b + f, c + g, d + h)
  else
    local a, b, c, d, e, f, g, h = struct.unpack(TWO, row)
    local i, j, k, l, m, n, o, p = struct.unpack(TWO, gain)
    total = struct.pack(TWO, a + i, b + j, c + k, d + l, e + m, f + n, g + o, h + p)
  end
  if many_sums == MOST_SUMS then sums, many_sums = {}, 0 end
  sums[gain] = sums[gain] or {}
  sums[gain][row] = total
  many_sums = many_sums + 1
  return total
end

-- Adds to one table of a shard and notes its name. Rows beyond the limit go to the row `other` of their retriever.
local function write_table(prefix, name, names, gains, limit, expires_ms)
  local key, width = prefix .. 'w:' .. name, #gains / #names
  local size = redis.call('HLEN', key)
  local fresh, others, out = size == 0, {}, {}
  for first = 1, #names, BATCH do
    local last = math.min(first + BATCH - 1, #names)
    local rows = redis.call('HMGET', key, unpack(names, first, last))
    for n = first, last do
      local row, gain = rows[n - first + 1], string.sub(gains, width * (n - 1) + 1, width * n)
      if row or size < limit then
        out[#out + 1] = names[n]
        out[#out + 1] = row and sum(row, gain) or gain
        if not row then size = size + 1 end
      else
        -- Names of retrievers are free too: when even their rows become too many, all share one.
        local other = (size < 2 * limit and string.match(names[n], '^[^%z]*') or '') .. '\0\0'
        if others[other] then
          others[other] = sum(others[other], gain)
        else
          others[other] = gain
          size = size + 1
        end
      end
    end
  end
  for other, row in pairs(others) do
    local place = #out + 1
    for n = 1, #out, 2 do -- a table that is folded brings a row of this name along
      if out[n] == other then place = n end
    end
    local before = out[place + 1] or redis.call('HGET', key, other)
    out[place], out[place + 1] = other, before and sum(row, before) or row
  end
  for first = 1, #out, BATCH do redis.call('HSET', key, unpack(out, first, math.min(first + BATCH - 1, #out))) end
  if fresh then
    redis.call('PEXPIREAT', key, string.format('%d', expires_ms))
    redis.call('SADD', prefix .. 'w', name)
  end
end

local function table_name(by, unit, window) return by .. ':' .. unit .. string.format('%d', window) end

-- What is known of searches: for each that any bucket knows, its index -> the pieces, the buckets' keys beside them.
local function look_up(keys, ids)
  local pieces, places = {}, {}
  for _, key in ipairs(keys) do
    if redis.call('EXISTS', key) == 1 then
      for first = 1, #ids, BATCH do
        local found = redis.call('HMGET', key, unpack(ids, first, math.min(first + BATCH - 1, #ids)))
        for n = 1, #found do
          if found[n] then
            local i = first + n - 1
            pieces[i], places[i] = pieces[i] or {}, places[i] or {}
            table.insert(pieces[i], found[n])
            table.insert(places[i], key)
          end
        end
      end
    end
  end
  return pieces, places
end

-- The searches of which something else is known than is expected, or nil.
local function surprises(pieces, expected, many)
  local found = {'KNOWN'}
  for i = 1, many do
    local known = pieces[i]
    if (known and table.concat(known)) ~= expected[i] then found[#found + 1] = {i - 1, unpack(known or {})} end
  end
  return found[2] and found
end

-- Searches of which something is taken back, and what is known of them: pieces and places as `look_up` returns them.
local function retractions(args, key_of, own)
  local found = {}
  for n = 1, tonumber(args[11]) do
    local at = 6 * n + 6
    local one = {id = args[at], expected = args[at + 4], stored = args[at + 5], pieces = {}, places = {}}
    local first, last = tonumber(args[at + 1]), tonumber(args[at + 2])
    if args[at + 3] == '1' then
      first, last, one.home = math.min(first, own - 1), math.max(last, own + 1), key_of(own)
    end
    for of = first, last do
      local piece = redis.call('HGET', key_of(of), one.id)
      if piece then
        one.pieces[#one.pieces + 1] = piece
        one.places[#one.places + 1] = key_of(of)
      end
    end
    found[n] = one
  end
  return found
end

-- Lets be known of a search what is left of it, nothing if that is nothing.
local function retract(one, life)
  for _, place in ipairs(one.places) do redis.call('HDEL', place, one.id) end
  local home = one.home or one.places[1]
  if one.stored ~= '' and home then
    local fresh = redis.call('EXISTS', home) == 0
    redis.call('HSET', home, one.id, one.stored)
    if fresh then redis.call('EXPIRE', home, life) end
  end
end

register_lane('clickwell1_engagement', function(prefix, args, bucket)
  if not args[11] then return end
  local dedup_ms, ratio = tonumber(args[6]), tonumber(args[7])
  -- Facts of a search are found from the bucket of their receipt and its neighbours. The key is named after the last
  -- dedup bucket in which it is needed, so that it is forgotten as the ids of that bucket are.
  local own = math.floor(bucket / ratio)
  local function key_of(of) return prefix .. 'd:engagement:' .. string.format('%d', (of + 2) * ratio - 1) end
  local keys, retracted = {key_of(own - 1), key_of(own), key_of(own + 1)}, retractions(args, key_of, own)
  local expected, ids, i = {}, {}, 13 + 6 * #retracted
  for _ = 1, tonumber(args[i - 1]) do
    expected[args[i] + 1] = args[i + 1]
    i = i + 2
  end
  local many = tonumber(args[i])
  for n = 1, many do ids[n] = args[i + 2 * n - 1] end
  local pieces, places = look_up(keys, ids)
  for n, one in ipairs(retracted) do
    pieces[many + n], expected[many + n] = one.pieces, one.expected
  end
  local surprising = surprises(pieces, expected, many + #retracted)
  if surprising then return surprising end

  local key, life = keys[2], string.format('%d', FACTS_LIFE + 3 * ratio * dedup_ms / 1000)
  for _, one in ipairs(retracted) do retract(one, life) end
  for n, of in pairs(places) do
    for _, place in ipairs(of) do
      if place ~= key then redis.call('HDEL', place, ids[n]) end
    end
  end
  local fresh = redis.call('EXISTS', key) == 0
  for first = i + 1, i + 2 * many, BATCH do
    redis.call('HSET', key, unpack(args, first, math.min(first + BATCH - 1, i + 2 * many)))
  end
  if fresh then redis.call('EXPIRE', key, life) end

  local days, limit = tonumber(args[9]), tonumber(args[10])
  local recent = math.floor(bucket * dedup_ms / DAY_MS) - tonumber(args[8])
  i = i + 2 * many + 1
  while args[i] do
    local by, hour, rows, names = args[i], tonumber(args[i + 1]), tonumber(args[i + 2]), {}
    for n = 1, rows do names[n] = args[i + 3 + n] end
    -- Hours of days before `recent` go to the table of their day at once.
    local day = math.floor(hour / 24)
    local name = day < recent and table_name(by, 'd', day) or table_name(by, 'h', hour)
    if rows > 0 then write_table(prefix, name, names, args[i + 3], limit, (day + 1 + days) * DAY_MS) end
    i = i + 4 + rows
  end
end, true)

-- Moves the tables of hours of past days into those of their days; what a reader sums stays the same.
-- KEYS  1 prefix of a shard's keys
-- ARGV  1 first day whose hours are kept   2 days that daily windows live   3 rows of one table at most
--       4 tables to be moved at most
-- Reply how many tables were moved
local function fold(keys, args)
  local prefix, recent, days = keys[1], tonumber(args[1]), tonumber(args[2])
  local moved = 0
  for _, name in ipairs(redis.call('SMEMBERS', prefix .. 'w')) do
    local by, unit, window = string.match(name, '^(%a+):(%a)(%d+)$')
    local day = unit == 'h' and math.floor(tonumber(window) / 24) or tonumber(window)
    if day < recent - days or (unit == 'h' and day < recent and moved < tonumber(args[4])) then
      local key, names, rows = prefix .. 'w:' .. name, {}, {}
      local found = redis.call('HGETALL', key)
      for i = 1, #found, 2 do
        names[#names + 1] = found[i]
        rows[#rows + 1] = found[i + 1]
      end
      if #names > 0 and day >= recent - days then
        local of_day = table_name(by, 'd', day)
        write_table(prefix, of_day, names, table.concat(rows), tonumber(args[3]), (day + 1 + days) * DAY_MS)
        moved = moved + 1
      end
      redis.call('UNLINK', key)
      redis.call('SREM', prefix .. 'w', name)
    end
  end
  return moved
end

redis.register_function('clickwell1_fold', fold)
