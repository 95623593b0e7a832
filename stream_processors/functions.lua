#!lua name=clickwell1

-- Applies one chunk's share of one shard: counts, trending, remembered ids and the next offset, all or nothing.
-- Every argument is complete before the first write, and nothing here depends on the server's clock or on randomness.

-- KEYS  1 ledger of the shard   2 prefix of the shard's other keys (never itself a key; it pins the slot)
-- ARGV  1 lane   2 ledger field   3 expected offset   4 next offset   5 dedup bucket, 0 when only advancing
--       6 cells of a ring   7 slot length in ms   8 slots after which a document expires   9 number of signals
--      10 .. 9+signals: trending weight of each signal
--       then the ids, 8 bytes each, then groups: slot, era, factor, number of documents, counts, documents...
--       counts: for each document one little-endian u16 for each signal
-- Reply OK | {AT, stored offset} | {LOST} | {DUP, index of each id seen before...}

local ID_LIFE = 172800      -- seconds; ids of a partition that never moves on are dropped after two days at the latest
local MOST_DROPPED = 1000   -- dedup buckets looked for at once; what a longer jump of time leaves ends by itself
local BATCH = 4000          -- Lua can unpack some 8,000 values at once
local TRENDING_KEEPS = 1000 -- documents of one shard that stay in the trending list; trimmed when there are twice as many

local function field_parts(value)
  local next_offset, bucket = string.match(value, '^(%d+) (%d+)$')
  return next_offset, tonumber(bucket)
end

-- Positions of the ids that are already remembered in `bucket` or in a neighbouring one.
local function seen_before(prefix, bucket, ids)
  local found = {'DUP'}
  local known = {}
  for b = bucket - 1, bucket + 1 do
    local key = prefix .. string.format('%d', b)
    if redis.call('EXISTS', key) == 1 then
      for first = 1, #ids, BATCH do
        local last = math.min(first + BATCH - 1, #ids)
        local member = redis.call('SMISMEMBER', key, unpack(ids, first, last))
        for i = 1, #member do
          if member[i] == 1 and not known[first + i - 1] then
            known[first + i - 1] = true
            found[#found + 1] = first + i - 1
          end
        end
      end
    end
  end
  return found
end

local function remember(key, ids)
  local fresh = redis.call('EXISTS', key) == 0
  for first = 1, #ids, BATCH do
    redis.call('SADD', key, unpack(ids, first, math.min(first + BATCH - 1, #ids)))
  end
  if fresh then redis.call('EXPIRE', key, ID_LIFE) end
end

-- Drops the ids of buckets that every partition of the lane has passed. One that follows far behind, as during a
-- rebuild, still needs its own.
local function forget(ledger, prefix, lane)
  local fields = redis.call('HGETALL', ledger)
  local least
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, #lane + 1) == lane .. '/' then
      local _, bucket = field_parts(fields[i + 1])
      if bucket and bucket > 0 then least = math.min(least or bucket, bucket) end
    end
  end
  local keep = least - 1
  local from = tonumber(redis.call('HGET', ledger, 'ids:' .. lane)) or keep
  for bucket = math.max(from, keep - MOST_DROPPED), keep - 1 do
    redis.call('UNLINK', prefix .. string.format('%d', bucket))
  end
  redis.call('HSET', ledger, 'ids:' .. lane, string.format('%d', keep))
end

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

local function count(key, slot, deltas, shape)
  local cells, signals = shape.cells, shape.signals
  local cell = (slot % cells) * 4
  local value = redis.call('GET', key)
  local last, mask = slot, 0
  if value then
    local head = struct.unpack('<I4', value)
    last = head % 16777216
    mask = (head - last) / 16777216
    if slot <= last - cells then return end
  end

  local reshape = not value or slot > last
  for s = 1, signals do
    if deltas[s] > 0 and bit.band(mask, bit.lshift(1, s - 1)) == 0 then reshape = true end
  end
  local at = 4
  if not reshape then
    for s = 1, signals do
      if bit.band(mask, bit.lshift(1, s - 1)) ~= 0 then
        if deltas[s] > 0 then
          redis.call('SETRANGE', key, at + cell, plus(value, at + cell + 1, deltas[s]))
        end
        at = at + cells * 4
      end
    end
    return
  end

  local newest = math.max(last, slot)
  local rings, bits = {''}, mask
  for s = 1, signals do
    local ring
    if bit.band(mask, bit.lshift(1, s - 1)) ~= 0 then
      ring = string.sub(value, at + 1, at + cells * 4)
      at = at + cells * 4
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

local ERA_BEHIND = 2 ^ -256 -- an era is 256 half-lives long

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

local function apply(keys, args)
  local ledger, prefix = keys[1], keys[2]
  local lane, field = args[1], args[2]
  local stored = redis.call('HMGET', ledger, 'generation', field)
  if not stored[1] or not stored[2] then return {'LOST'} end
  local at, bucket_before = field_parts(stored[2])
  if at ~= args[3] then return {'AT', at} end
  if tonumber(args[4]) < tonumber(at) then return {'AT', at} end

  local bucket = tonumber(args[5])
  local shape = {cells = tonumber(args[6]), slot_ms = tonumber(args[7]), life = tonumber(args[8]), signals = tonumber(args[9])}
  local weights = {}
  for s = 1, shape.signals do weights[s] = tonumber(args[9 + s]) end
  local i = 10 + shape.signals
  local ids = {}
  for n = 1, #args[i] / 8 do ids[n] = string.sub(args[i], 8 * n - 7, 8 * n) end
  i = i + 1

  local id_prefix = prefix .. 'd:' .. lane .. ':'
  if #ids > 0 then
    local found = seen_before(id_prefix, bucket, ids)
    if #found > 1 then return found end
    remember(id_prefix .. string.format('%d', bucket), ids)
  end

  local format = '<' .. string.rep('I2', shape.signals)
  while args[i] do
    local slot, era, factor, documents = tonumber(args[i]), tonumber(args[i + 1]), tonumber(args[i + 2]), tonumber(args[i + 3])
    local counts, trending = args[i + 4], open_era(prefix, era)
    -- What comes late to an era belongs to the next one's list too, if that has begun with this one's already.
    local later = prefix .. 't:' .. string.format('%d', era + 1)
    later = redis.call('EXISTS', later) == 1 and later
    for n = 1, documents do
      local document, deltas = args[i + 4 + n], {struct.unpack(format, counts, 2 * shape.signals * (n - 1) + 1)}
      count(prefix .. 'c:' .. document, slot, deltas, shape)
      local weight = 0
      for s = 1, shape.signals do weight = weight + weights[s] * deltas[s] end
      if weight > 0 then
        redis.call('ZINCRBY', trending, string.format('%.17g', weight * factor), document)
        if later then redis.call('ZINCRBY', later, string.format('%.17g', weight * factor * ERA_BEHIND), document) end
      end
    end
    i = i + 5 + documents
    if redis.call('ZCARD', trending) > 2 * TRENDING_KEEPS then
      redis.call('ZREMRANGEBYRANK', trending, 0, -TRENDING_KEEPS - 1)
    end
  end

  local bucket_now = math.max(bucket, bucket_before)
  redis.call('HSET', ledger, field, string.format('%s %d', args[4], bucket_now))
  if bucket_now > bucket_before then forget(ledger, id_prefix, lane) end
  return redis.status_reply('OK')
end

redis.register_function('clickwell1_apply', apply)

-- KEYS  1 pointer to the generation being built   2 pointer to the active one   3 names to be discarded
-- ARGV  1 name that must be the one being built   2 JSON of it as the active one
-- Reply 1 when the pointer moved, 0 when another generation is being built, or none.
local function flip(keys, args)
  local building = redis.call('GET', keys[1])
  if not building or cjson.decode(building)['name'] ~= args[1] then return 0 end
  local active = redis.call('GET', keys[2])
  if active then redis.call('SADD', keys[3], cjson.decode(active)['name']) end
  redis.call('SET', keys[2], args[2])
  redis.call('DEL', keys[1])
  return 1
end

redis.register_function('clickwell1_flip', flip)
