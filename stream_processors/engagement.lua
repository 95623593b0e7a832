-- The engagement lane: what was shown, clicked, skipped and converted, in hourly and daily windows by position, query and
-- document.

-- What is known of one search is a set of facts, packed as {rank, time, retriever, query, position, document, bits, ...}.
-- Facts are merged by minimum and by OR, so they do not depend on the order of events, and repeats add nothing. What a
-- search counts is a function of its facts: when they grow, what they counted is taken back and what they count is added.
-- A window's tables are hashes: of hours while these are recent, of days for what is older; see `fold`.

-- ARGV  6 length of a dedup bucket in ms   7 dedup buckets in a bucket of searches   8 days that hourly windows live
--       9 days that daily windows live   10 rows of one table at most
--      11 source of exposure unless the retriever has its own   12 own ones, packed
--      13 ids of searches, 8 bytes each   14 ... the facts of each

local HOUR_MS, DAY_MS = 3600000, 86400000
local UNKNOWN = -1 -- a position that no event tells
local SHOWN, IMPRESSION, CLICK, SKIP, CONVERSION = 1, 2, 4, 8, 16
local ACTED = CLICK + SKIP + CONVERSION
local TOP = 3 -- documents are counted once more at the first so many positions
local ONE, TWO = '<i4i4i4i4', '<i4i4i4i4i4i4i4i4' -- exposures, clicks, skips, conversions; documents: and those at the top
local FACTS_LIFE = 172800 -- seconds beside three buckets; as for ids, for partitions that never move on

-- Adds what `more` knows to `facts`.
local function merge(facts, more)
  for n = 1, 4 do
    if more[n] ~= facts[n] then
      -- The search itself tells best when it was, whose and for what; without it, its earliest interaction.
      if more[n] < facts[n] then
        for m = n, 4 do facts[m] = more[m] end
      end
      break
    end
  end
  local at = {}
  for n = 5, #facts, 3 do at[facts[n] .. ' ' .. facts[n + 1]] = n end
  for n = 5, #more, 3 do
    local there = at[more[n] .. ' ' .. more[n + 1]]
    if there then
      facts[there + 2] = bit.bor(facts[there + 2], more[n + 2])
    else
      for m = n, n + 2 do facts[#facts + 1] = more[m] end
    end
  end
end

-- The bit that says that a result was exposed. What was acted on was exposed in any case.
local function exposing(source, rank)
  if source == 'shown' or (source == 'auto' and rank == 0) then return SHOWN end
  if source == 'implied' then return 0 end
  return IMPRESSION
end

-- The results that a search exposed: positions, documents and bits side by side, each position of a document once.
local function exposed(facts, source)
  local relevant = exposing(source, facts[1]) + ACTED
  local positions, documents, bits, lost, first = {}, {}, {}, {}, {}
  for n = 5, #facts, 3 do
    local position, document, about = facts[n], facts[n + 1], bit.band(facts[n + 2], relevant)
    if about ~= 0 then
      if position == UNKNOWN then
        lost[#lost + 1] = {document, about}
      else
        local i = #positions + 1
        positions[i], documents[i], bits[i] = position, document, about
        if not first[document] or position < positions[first[document]] then first[document] = i end
      end
    end
  end
  -- An event without a position is about the place where its document is known to have been.
  for _, one in ipairs(lost) do
    local i = first[one[1]]
    if i then
      bits[i] = bit.bor(bits[i], one[2])
    else
      i = #positions + 1
      positions[i], documents[i], bits[i] = UNKNOWN, one[1], one[2]
    end
  end
  return positions, documents, bits
end

local function add(rows, name, sign, click, skip, conversion, top)
  local row = rows[name]
  if not row then
    row = {0, 0, 0, 0, 0, 0, 0, 0}
    rows[name] = row
  end
  row[1] = row[1] + sign
  if click then row[2] = row[2] + sign end
  if skip then row[3] = row[3] + sign end
  if conversion then row[4] = row[4] + sign end
  if top then
    row[5] = row[5] + sign
    if click then row[6] = row[6] + sign end
    if skip then row[7] = row[7] + sign end
    if conversion then row[8] = row[8] + sign end
  end
end

-- The tables of an hour that a call adds to.
local function tables_of(hours, hour)
  local tables = hours[hour]
  if not tables then
    tables = {position = {}, query = {}, document = {}}
    hours[hour] = tables
  end
  return tables
end

-- What a search counts: for each exposed result whether it was clicked, skipped, converted, as bits.
local function outcome(facts, sources)
  local positions, documents, bits = exposed(facts, sources[facts[3]] or sources[''])
  local clicked, deepest = {}, UNKNOWN
  for i = 1, #positions do
    if bit.band(bits[i], CLICK) ~= 0 then
      clicked[documents[i]] = true
      deepest = math.max(deepest, positions[i])
    end
  end
  for i = 1, #positions do
    local acts, position = bit.band(bits[i], ACTED), positions[i]
    if clicked[documents[i]] or acts >= CONVERSION then
      acts = bit.band(acts, CLICK + CONVERSION)
    elseif position ~= UNKNOWN and position < deepest then
      acts = SKIP
    end
    bits[i] = acts
  end
  return {time = facts[2], retriever = facts[3], query = facts[4], positions = positions, documents = documents, acts = bits}
end

local function count_result(hours, found, i, sign)
  local tables = tables_of(hours, math.floor(found.time / HOUR_MS))
  local position, acts, head = found.positions[i], found.acts[i], found.retriever .. '\0'
  local click, skip, conversion = acts % 8 >= CLICK, acts % 16 >= SKIP, acts >= CONVERSION
  add(tables.position, head .. (position == UNKNOWN and '' or position), sign, click, skip, conversion)
  add(tables.query, head .. found.query, sign, click, skip, conversion)
  local top = position ~= UNKNOWN and position < TOP
  add(tables.document, head .. found.documents[i], sign, click, skip, conversion, top)
end

-- Counts what a search says `after` more became known, in place of what it said `before`: mostly few results differ.
local function count_change(hours, before, after)
  local shared = 0
  if before and before.time == after.time and before.retriever == after.retriever and before.query == after.query then
    shared = math.min(#before.positions, #after.positions)
  end
  for i = 1, math.max(before and #before.positions or 0, #after.positions) do
    local same = i <= shared and before.positions[i] == after.positions[i] and before.documents[i] == after.documents[i]
      and before.acts[i] == after.acts[i]
    if not same then
      if before and before.positions[i] then count_result(hours, before, i, -1) end
      if after.positions[i] then count_result(hours, after, i, 1) end
    end
  end
end

local NOT_EXPOSED = {positions = {}}

-- The same for a search of which one result is known, as for most interactions that come before their search.
local function count_single(hours, facts, sources)
  local bits = facts[7]
  local source = sources[facts[3]] or sources['']
  local click, skip, conversion = bits % 8 >= CLICK, bits % 16 >= SKIP, bits >= CONVERSION
  if bits < CLICK and bit.band(bits, exposing(source, facts[1])) == 0 then return end
  local tables = tables_of(hours, math.floor(facts[2] / HOUR_MS))
  if click or conversion then skip = false end
  local head, position = facts[3] .. '\0', facts[5]
  add(tables.position, head .. (position == UNKNOWN and '' or position), 1, click, skip, conversion)
  add(tables.query, head .. facts[4], 1, click, skip, conversion)
  add(tables.document, head .. facts[6], 1, click, skip, conversion, position ~= UNKNOWN and position < TOP)
end

local function sum(row, more)
  for n = 1, 8 do row[n] = row[n] + (more[n] or 0) end
end

-- A row as it is stored after `row` is added. A part of a window may be below zero, where only its sum is not.
local function added(value, row, format)
  if not value then return struct.pack(format, unpack(row)) end
  local a, b, c, d, e, f, g, h = struct.unpack(format, value)
  if format == ONE then return struct.pack(ONE, a + row[1], b + row[2], c + row[3], d + row[4]) end
  return struct.pack(TWO, a + row[1], b + row[2], c + row[3], d + row[4], e + row[5], f + row[6], g + row[7], h + row[8])
end

-- Adds rows to one table of a shard and notes its name. Rows beyond the limit go to the row `other` of their retriever.
local function write_table(prefix, name, rows, by, limit, expires_ms)
  local key = prefix .. 'w:' .. name
  local format = by == 'document' and TWO or ONE
  local size = redis.call('HLEN', key)
  local fresh, others, out, fields = size == 0, {}, {}, {}
  for field in pairs(rows) do fields[#fields + 1] = field end
  for first = 1, #fields, BATCH do
    local last = math.min(first + BATCH - 1, #fields)
    local values = redis.call('HMGET', key, unpack(fields, first, last))
    for n = first, last do
      local field, value = fields[n], values[n - first + 1]
      if value or size < limit then
        out[#out + 1] = field
        out[#out + 1] = added(value, rows[field], format)
        if not value then size = size + 1 end
      else
        -- Names of retrievers are free too: when even their rows become too many, all share one.
        local other = (size < 2 * limit and string.match(field, '^[^%z]*') or '') .. '\0\0'
        if not others[other] then
          others[other] = {0, 0, 0, 0, 0, 0, 0, 0}
          size = size + 1
        end
        sum(others[other], rows[field])
      end
    end
  end
  for field, row in pairs(others) do
    out[#out + 1] = field
    out[#out + 1] = added(redis.call('HGET', key, field), row, format)
  end
  for first = 1, #out, BATCH do redis.call('HSET', key, unpack(out, first, math.min(first + BATCH - 1, #out))) end
  if fresh then
    redis.call('PEXPIREAT', key, string.format('%d', expires_ms))
    redis.call('SADD', prefix .. 'w', name)
  end
end

local function table_name(by, unit, window) return by .. ':' .. unit .. string.format('%d', window) end

-- Writes tables of hours; those of days before `recent` to the tables of their day.
local function write_hours(prefix, hours, recent, days, limit)
  for hour, tables in pairs(hours) do
    local day = math.floor(hour / 24)
    for by, rows in pairs(tables) do
      local name = day < recent and table_name(by, 'd', day) or table_name(by, 'h', hour)
      write_table(prefix, name, rows, by, limit, (day + 1 + days) * DAY_MS)
    end
  end
end

register_lane('clickwell1_engagement', function(prefix, args, bucket)
  if not args[14] then return end
  local sources = cmsgpack.unpack(args[12])
  sources[''] = args[11]
  -- Facts of a search are found from the bucket of their receipt and its neighbours. The key is named after the last
  -- dedup bucket in which it is needed, so that it is forgotten as the ids of that bucket are.
  local ratio = tonumber(args[7])
  local own = math.floor(bucket / ratio)
  local function facts_key(of) return prefix .. 'd:engagement:' .. string.format('%d', (of + 2) * ratio - 1) end
  local ids = {}
  for n = 1, #args[13] / 8 do ids[n] = string.sub(args[13], 8 * n - 7, 8 * n) end

  local known = {}
  for of = own - 1, own + 1 do
    local key = facts_key(of)
    if redis.call('EXISTS', key) == 1 then
      for first = 1, #ids, BATCH do
        local last = math.min(first + BATCH - 1, #ids)
        local values = redis.call('HMGET', key, unpack(ids, first, last))
        for n = first, last do
          local value = values[n - first + 1]
          if value then
            known[n] = known[n] or {}
            table.insert(known[n], {of, value})
          end
        end
      end
    end
  end

  local hours, out = {}, {}
  for n = 1, #ids do
    local packed = args[13 + n]
    local facts = cmsgpack.unpack(packed)
    if known[n] then
      local all = cmsgpack.unpack(known[n][1][2])
      local before = outcome(all, sources)
      merge(all, facts)
      for m, one in ipairs(known[n]) do
        if one[1] ~= own then redis.call('HDEL', facts_key(one[1]), ids[n]) end
        if m > 1 then
          local other = cmsgpack.unpack(one[2])
          count_change(hours, outcome(other, sources), NOT_EXPOSED)
          merge(all, other)
        end
      end
      count_change(hours, before, outcome(all, sources))
      packed = cmsgpack.pack(all)
    elseif #facts == 7 then
      count_single(hours, facts, sources)
    else
      count_change(hours, nil, outcome(facts, sources))
    end
    out[#out + 1] = ids[n]
    out[#out + 1] = packed or cmsgpack.pack(facts)
  end

  local key = facts_key(own)
  local fresh = redis.call('EXISTS', key) == 0
  for first = 1, #out, BATCH do redis.call('HSET', key, unpack(out, first, math.min(first + BATCH - 1, #out))) end
  if fresh then redis.call('EXPIRE', key, string.format('%d', FACTS_LIFE + 3 * ratio * tonumber(args[6]) / 1000)) end
  local received_day = math.floor(bucket * tonumber(args[6]) / DAY_MS)
  write_hours(prefix, hours, received_day - tonumber(args[8]), tonumber(args[9]), tonumber(args[10]))
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
      local key, rows, format = prefix .. 'w:' .. name, {}, by == 'document' and TWO or ONE
      local found = redis.call('HGETALL', key)
      for i = 1, #found, 2 do rows[found[i]] = {struct.unpack(format, found[i + 1])} end
      if #found > 0 and day >= recent - days then
        write_table(prefix, table_name(by, 'd', day), rows, by, tonumber(args[3]), (day + 1 + days) * DAY_MS)
        moved = moved + 1
      end
      redis.call('UNLINK', key)
      redis.call('SREM', prefix .. 'w', name)
    end
  end
  return moved
end

redis.register_function('clickwell1_fold', fold)
