-- The popularity lane: rolling counts of each document, and what is trending.

-- ARGV  6 cells of a ring   7 slot length in ms   8 slots after which a document expires   9 number of signals
--      10 .. 9+signals: trending weight of each signal
--       then groups: slot, era, factor, number of documents, counts, documents...
--       counts: for each document one little-endian u16 for each signal; a negative factor takes the group back

local TRENDING_KEEPS = 1000 -- documents of one shard that stay in the trending list; trimmed when there are twice as many

-- Empties the cells of slots (last, slot] of one ring.
local function turn(ring, last, slot, cells)
  local n = math.min(slot - last, cells)
  if n == cells then return string.rep('\0', cells * 4) end
  local first = (last + 1) % cells
  if first + n <= cells then
    return string.sub(ring, 1, first * 4) .. string.rep('\0', n * 4) .. string.sub(ring, (first + n) * 4 + 1)
  end
  local wrapped = first + n - cells
  return string.rep('\0', wrapped * 4) .. string.sub(ring, wrapped * 4 + 1, first * 4)
    .. string.rep('\0', (cells - first) * 4)
end

local function plus(ring, at, delta)
  return struct.pack('<I4', math.min(struct.unpack('<I4', ring, at) + delta, 4294967295))
end

-- For each mask of signals: the place of each signal's ring in the value, counted from 0.
local places = {}
local function places_of(mask, signals)
  if not places[mask] then
    local place, found = {}, 0
    for s = 1, signals do
      if bit.band(mask, bit.lshift(1, s - 1)) ~= 0 then
        place[s] = found
        found = found + 1
      end
    end
    places[mask] = place
  end
  return places[mask]
end

-- Adds to a document that has no ring yet, not of every signal, or that moves on to a newer slot.
local function reshape(key, value, last, mask, slot, deltas, shape)
  local cells, cell, place = shape.cells, (slot % shape.cells) * 4, places_of(mask, shape.signals)
  local newest = math.max(last, slot)
  local rings, bits = {''}, mask
  for s = 1, shape.signals do
    local ring
    if place[s] then
      ring = string.sub(value, 5 + place[s] * cells * 4, 4 + (place[s] + 1) * cells * 4)
      if slot > last then ring = turn(ring, last, slot, cells) end
    elseif deltas[s] > 0 then
      ring = string.rep('\0', cells * 4)
      bits = bits + 2 ^ (s - 1)
    end
    if ring then
      if deltas[s] > 0 then
        ring = string.sub(ring, 1, cell) .. plus(ring, cell + 1, deltas[s]) .. string.sub(ring, cell + 5)
      end
      rings[#rings + 1] = ring
    end
  end
  rings[1] = struct.pack('<I4', bits * 16777216 + newest)
  redis.call('SET', key, table.concat(rings), 'PXAT', string.format('%d', (newest + shape.life) * shape.slot_ms))
end

local function count(key, value, slot, deltas, shape)
  local last, mask = slot, 0
  if value then
    local head = struct.unpack('<I4', value)
    last = head % 16777216
    mask = (head - last) / 16777216
    if slot <= last - shape.cells then return end
  end
  local place = places_of(mask, shape.signals)
  local whole = value and slot <= last
  for s = 1, shape.signals do
    if deltas[s] > 0 and not place[s] then whole = false end
  end
  if not whole then return reshape(key, value, last, mask, slot, deltas, shape) end
  local cell = 4 + (slot % shape.cells) * 4
  for s = 1, shape.signals do
    if deltas[s] > 0 then
      local at = cell + place[s] * shape.cells * 4
      redis.call('SETRANGE', key, at, plus(value, at + 1, deltas[s]))
    end
  end
end

-- Takes back what an event of `slot` has counted; a slot that the ring no longer has needs nothing, and a ring that
-- has nothing left goes.
local function uncount(key, value, slot, deltas, shape)
  if not value then return end
  local head = struct.unpack('<I4', value)
  local last = head % 16777216
  if slot > last or slot <= last - shape.cells then return end
  local place, cell = places_of((head - last) / 16777216, shape.signals), 4 + (slot % shape.cells) * 4
  for s = 1, shape.signals do
    if deltas[s] > 0 and place[s] then
      local at = cell + place[s] * shape.cells * 4
      local left = math.max(struct.unpack('<I4', value, at + 1) - deltas[s], 0)
      redis.call('SETRANGE', key, at, struct.pack('<I4', left))
    end
  end
  if not string.find(redis.call('GET', key), '[^%z]', 5) then redis.call('UNLINK', key) end
end

local ERA_BEHIND = 2 ^ -256 -- an era is 256 half-lives long
local RESIDUE = 1e-9        -- sums in another order differ by some 1e-16 of themselves

-- The trending list of an era begins with the previous era's, scaled down by its length.
local function open_era(prefix, era)
  local key = prefix .. 't:' .. string.format('%d', era)
  if redis.call('EXISTS', key) == 0 then
    local before = prefix .. 't:' .. string.format('%d', era - 1)
    if redis.call('EXISTS', before) == 1 then
      redis.call('ZUNIONSTORE', key, 1, before, 'WEIGHTS', string.format('%.17g', ERA_BEHIND))
    end
  end
  return key
end

-- Adds `gains`, one for each of `documents`, to a trending list: few commands, however many there are. Nothing is left
-- of a document that has lost all its gains.
local function add_trending(key, documents, gains)
  for first = 1, #documents, BATCH do
    local last = math.min(first + BATCH - 1, #documents)
    local before = redis.call('ZMSCORE', key, unpack(documents, first, last))
    local pairs_, gone = {}, {}
    for n = first, last do
      local score = (tonumber(before[n - first + 1] or 0)) + gains[n]
      if score > RESIDUE * math.abs(gains[n]) then
        pairs_[#pairs_ + 1] = string.format('%.17g', score)
        pairs_[#pairs_ + 1] = documents[n]
      else
        gone[#gone + 1] = documents[n]
      end
    end
    if #gone > 0 then redis.call('ZREM', key, unpack(gone)) end
    for from = 1, #pairs_, BATCH do
      redis.call('ZADD', key, unpack(pairs_, from, math.min(from + BATCH - 1, #pairs_)))
    end
  end
  if redis.call('ZCARD', key) > 2 * TRENDING_KEEPS then
    redis.call('ZREMRANGEBYRANK', key, 0, -TRENDING_KEEPS - 1)
  end
end

-- Counts one group, or takes it back: events of one hour, `packed` holding the counts of each document.
local function add_group(prefix, documents, packed, slot, shape, change)
  local format, size = shape.format, 2 * shape.signals
  local trending, gains = {}, {}
  for first = 1, #documents, BATCH do
    local names = {}
    for n = first, math.min(first + BATCH - 1, #documents) do names[#names + 1] = prefix .. 'c:' .. documents[n] end
    local values = redis.call('MGET', unpack(names))
    for m = 1, #names do
      local n = first + m - 1
      local deltas = {struct.unpack(format, packed, size * (n - 1) + 1)}
      change(names[m], values[m], slot, deltas, shape)
      local gain = 0
      for s = 1, shape.signals do gain = gain + shape.weights[s] * deltas[s] end
      if gain > 0 then
        trending[#trending + 1] = documents[n]
        gains[#gains + 1] = gain
      end
    end
  end
  return trending, gains
end

local function scaled(gains, factor)
  local out = {}
  for n = 1, #gains do out[n] = gains[n] * factor end
  return out
end

register_lane('clickwell1_popularity', function(prefix, args)
  local shape = {
    cells = tonumber(args[6]), slot_ms = tonumber(args[7]), life = tonumber(args[8]), signals = tonumber(args[9]), weights = {},
  }
  shape.format = '<' .. string.rep('I2', shape.signals)
  for s = 1, shape.signals do shape.weights[s] = tonumber(args[9 + s]) end
  local i = 10 + shape.signals
  while args[i] do
    local slot, era, factor, many = tonumber(args[i]), tonumber(args[i + 1]), tonumber(args[i + 2]), tonumber(args[i + 3])
    local documents = {}
    for n = 1, many do documents[n] = args[i + 4 + n] end
    local moving, gains = add_group(prefix, documents, args[i + 4], slot, shape, factor < 0 and uncount or count)
    if #moving > 0 then
      add_trending(open_era(prefix, era), moving, scaled(gains, factor))
      -- What comes late to an era belongs to the next one's list too, if that has begun with this one's already.
      local later = prefix .. 't:' .. string.format('%d', era + 1)
      if redis.call('EXISTS', later) == 1 then add_trending(later, moving, scaled(gains, factor * ERA_BEHIND)) end
    end
    i = i + 5 + many
  end
end)
