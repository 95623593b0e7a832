// Numbers, rates and times as people read them. Positions count from 1 here and from 0 in the API; times are UTC.

export const HOUR = 3600000, DAY = 24 * HOUR;
export const NONE = "—";

const Z = 1.959964;
// A rate whose interval is wider says nothing yet: the counts alone are shown.
const WIDEST = 0.2;

const thousands = new Intl.NumberFormat("en-GB");

// Wilson's 95 % interval of count out of n (JASA 1927); value null without evidence, which is not 0.
export function rate(count, n) {
  if (!n) return { count, of: n, value: null, low: null, high: null };
  const p = count / n, z2 = Z * Z, middle = p + z2 / (2 * n), scale = 1 + z2 / n;
  const spread = Z * Math.sqrt((p * (1 - p) + z2 / (4 * n)) / n);
  const low = Math.max(0, (middle - spread) / scale), high = Math.min(1, (middle + spread) / scale);
  return { count, of: n, value: p, low, high };
}

export function summed(rates) {
  return rate(rates.reduce((sum, one) => sum + one.count, 0), rates.reduce((sum, one) => sum + one.of, 0));
}

export function whole(n) {
  return thousands.format(n);
}

export function percent(value, decimals = 1) {
  return value === null ? NONE : (100 * value).toFixed(decimals) + "%";
}

// As many decimals as the interval carries.
export function decimalsOf({ low, high }) {
  const half = (high - low) / 2;
  return half < 0.001 ? 2 : half > 0.03 ? 0 : 1;
}

export function isThin({ value, low, high }) {
  return value === null || high - low > WIDEST;
}

export function intervalText(one) {
  const d = decimalsOf(one);
  return `${(100 * one.low).toFixed(d)}–${(100 * one.high).toFixed(d)}`;
}

export function rateText(one) {
  if (one.value === null) return NONE;
  if (isThin(one)) return `${NONE} ${whole(one.count)} of ${whole(one.of)}`;
  return `${percent(one.value, decimalsOf(one))} (${intervalText(one)})`;
}

export function placeText(mean) {
  return mean.value === null ? NONE : (mean.value + 1).toFixed(1);
}

export function changeText(change, isRate) {
  if (!change || change.difference === null) return "";
  if (!change.clear) return "no clear change";
  const scale = isRate ? 100 : 1, d = isRate ? 1 : 2;
  const signed = value => (value < 0 ? "−" : "+") + Math.abs(scale * value).toFixed(d);
  return `${signed(change.difference)}${isRate ? " pp" : ""} (${signed(change.low)} to ${signed(change.high)})`;
}

function formatter(shape) {
  const format = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", hour12: false, ...shape });
  return ms => format.format(ms).replace(",", "");
}

export const moment = formatter({ day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
export const clockTime = formatter({ hour: "2-digit", minute: "2-digit", second: "2-digit" });
export const dayName = formatter({ day: "numeric", month: "short" });
export const hourName = formatter({ hour: "2-digit", minute: "2-digit" });

export function dayOf(ms) {
  return new Date(ms).toISOString().slice(0, 10);
}

export function duration(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 100) return `${seconds} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

export function queryText(query) {
  return query === "" ? "(empty query)" : query;
}

const RULES = {
  events_stopped: "Events stopped", ctr_drop: "CTR fell", skip_rise: "Skips rose",
  zero_result_rise: "Zero results rose", abandonment_rise: "Searches without a click rose",
  first_click_drift: "First clicks moved down",
};

export function ruleText(rule) {
  return RULES[rule] || rule.replaceAll("_", " ");
}

// The worst first, then the newest.
export function byWeight(one, other) {
  const names = Object.keys(RULES);
  return names.indexOf(one.rule) - names.indexOf(other.rule) || other.since_ms - one.since_ms;
}

export function sentenceText(sentence) {
  return (sentence.charAt(0).toUpperCase() + sentence.slice(1)).replaceAll("->", "→");
}
