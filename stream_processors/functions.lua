#!lua name=clickwell1

-- What the lanes have in common, and how generations take over. Each lane's own effects follow in a file of its own.
-- A lane's function applies one chunk's share of one shard: its effects, remembered ids and the next offset, all or
-- nothing. Every argument is complete before the first write; no effect depends on the server's clock or on randomness.

-- KEYS  1 ledger of the shard   2 prefix of the shard's other keys (never itself a key; it pins the slot)
-- ARGV  1 ledger field, which begins with the lane   2 expected offset   3 next offset
--       4 dedup bucket, 0 when only advancing   5 ids, 8 bytes each   6 ... the lane's own
-- Reply OK | {AT, stored offset} | {LOST} | {KNOWN, ...}: nothing was applied, because the caller does not know what it
--       must; for ids the index of each, from 0, that was seen before

local ID_LIFE = 172800      -- seconds; ids of a partition that never moves on are dropped after two days at the latest
local MOST_DROPPED = 1000   -- dedup buckets looked for at once; what a longer jump of time leaves ends by itself
local BATCH = 4000          -- Lua can unpack some 8,000 values at once

local function field_parts(value)
  local next_offset, bucket = string.match(value, '^(%d+) (%d+)$')
  return next_offset, tonumber(bucket)
end

-- Positions of the ids that are already remembered in `bucket` or in a neighbouring one.
local function seen_before(prefix, bucket, ids)
  local found = {'KNOWN'}
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
            found[#found + 1] = first + i - 2
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
-- rebuild, still needs its own; where partitions need each other's, also one that has not begun.
local function forget(ledger, prefix, lane, joins)
  local fields = redis.call('HGETALL', ledger)
  local least
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, #lane + 1) == lane .. '/' then
      local _, bucket = field_parts(fields[i + 1])
      if bucket and (bucket > 0 or joins) then least = math.min(least or bucket, bucket) end
    end
  end
  if least == 0 then return end
  local keep = least - 1
  local from = tonumber(redis.call('HGET', ledger, 'ids:' .. lane)) or keep
  for bucket = math.max(from, keep - MOST_DROPPED), keep - 1 do
    redis.call('UNLINK', prefix .. string.format('%d', bucket))
  end
  redis.call('HSET', ledger, 'ids:' .. lane, string.format('%d', keep))
end

-- Registers a lane's function. `effects(prefix, args, bucket)` writes what args[6] and the following say, or returns a
-- reply and has written nothing; `joins` tells that what one partition remembers is needed by others.
local function register_lane(name, effects, joins)
  redis.register_function(name, function(keys, args)
    local ledger, prefix, field = keys[1], keys[2], args[1]
    local stored = redis.call('HMGET', ledger, 'generation', field)
    if not stored[1] or not stored[2] then return {'LOST'} end
    local at, bucket_before = field_parts(stored[2])
    if at ~= args[2] then return {'AT', at} end
    if tonumber(args[3]) < tonumber(at) then return {'AT', at} end

    local lane, bucket = string.match(field, '^[^/]+'), tonumber(args[4])
    local id_prefix = prefix .. 'd:' .. lane .. ':'
    local ids = {}
    for n = 1, #args[5] / 8 do ids[n] = string.sub(args[5], 8 * n - 7, 8 * n) end
    if #ids > 0 then
      local found = seen_before(id_prefix, bucket, ids)
      if #found > 1 then return found end
      remember(id_prefix .. string.format('%d', bucket), ids)
    end
    local refusal = effects(prefix, args, bucket)
    if refusal then return refusal end

    local bucket_now = math.max(bucket, bucket_before)
    redis.call('HSET', ledger, field, string.format('%s %d', args[3], bucket_now))
    if bucket_now > bucket_before then forget(ledger, id_prefix, lane, joins) end
    return redis.status_reply('OK')
  end)
end

-- KEYS  1 pointer to the generation being built   2 names to be discarded
-- ARGV  1 JSON of the generation to begin   2 ... lanes that one which is being built must have, or it is given up
-- Reply 1 when it has begun, 0 when another one is being built.
local function begin(keys, args)
  local building = redis.call('GET', keys[1])
  if building then
    local there, complete = cjson.decode(building), true
    for n = 2, #args do complete = complete and there['lanes'] and there['lanes'][args[n]] end
    if complete then return 0 end
    redis.call('SADD', keys[2], there['name'])
  end
  redis.call('SET', keys[1], args[1])
  return 1
end

redis.register_function('clickwell1_begin', begin)

-- KEYS  1 pointer to the generation being built   2 pointer to the active one   3 names to be discarded
-- ARGV  1 name that must be the one being built   2 JSON of it as the active one
-- Reply 1 when the pointer moved, 0 when another generation is being built, or none.
local function flip(keys, args)
  local building = redis.call('GET', keys[1])
  if not building or cjson.decode(building)['name'] ~= args[1] then return 0 end
  local active = redis.call('GET', keys[2])
  -- Names are as coarse as seconds: what is asked for within a generation's first second is that generation itself.
  local replaced = active and cjson.decode(active)['name']
  if replaced and replaced ~= args[1] then redis.call('SADD', keys[3], replaced) end
  redis.call('SET', keys[2], args[2])
  redis.call('DEL', keys[1])
  return 1
end

redis.register_function('clickwell1_flip', flip)
