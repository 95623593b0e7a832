-- What the servers of the API know together: which events were taken lately, and what each key has spent.
--
-- KEYS  the digests taken last, the digests taken before those, then one bucket for each key that spends
-- ARGV  digests in a set at most, life of a set in seconds, digests that are asked for, digests that were taken;
--       then three for each bucket: tokens a second, tokens at most, tokens wanted
-- Returns a byte for each digest that is asked for, 1 if it was taken, and for each bucket 0, or if nothing was spent
-- the milliseconds after which the tokens are there.
-- A digest has 16 bytes.

local function digests(bytes)
  local found = {}
  for at = 1, #bytes, 16 do
    found[#found + 1] = string.sub(bytes, at, at + 15)
  end
  return found
end

local recent, older = KEYS[1], KEYS[2]

local taken = digests(ARGV[4])
if #taken > 0 then
  if redis.call('SCARD', recent) >= tonumber(ARGV[1]) then
    redis.call('UNLINK', older)
    redis.call('RENAME', recent, older)
  end
  redis.call('SADD', recent, unpack(taken))
  redis.call('EXPIRE', recent, ARGV[2])
end

local asked, known = digests(ARGV[3]), {}
if #asked > 0 then
  local last = redis.call('SMISMEMBER', recent, unpack(asked))
  local before = redis.call('SMISMEMBER', older, unpack(asked))
  for i = 1, #asked do
    known[i] = string.char(math.max(last[i], before[i]))
  end
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local waits = {}
for i = 3, #KEYS do
  local rate, most, wanted = tonumber(ARGV[3 * i - 4]), tonumber(ARGV[3 * i - 3]), tonumber(ARGV[3 * i - 2])
  local held = redis.call('HMGET', KEYS[i], 'tokens', 'at')
  local tokens = most
  if held[1] then
    tokens = math.min(most, held[1] + math.max(0, now - held[2]) * rate / 1000)
  end
  if wanted > tokens then
    waits[i - 2] = math.ceil((wanted - tokens) * 1000 / rate)
  else
    waits[i - 2] = 0
    tokens = tokens - wanted
  end
  redis.call('HSET', KEYS[i], 'tokens', string.format('%.6f', tokens), 'at', string.format('%.0f', now))
  -- A bucket that has not been asked for this long is full, as one that is not there.
  redis.call('EXPIRE', KEYS[i], math.ceil(most / rate) + 1)
end

return {table.concat(known), waits}
