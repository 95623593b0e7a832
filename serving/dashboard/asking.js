// Asking the API. Each part of the page asks for itself, so that one that fails leaves the others standing.
import { state } from "./address.js";

const TICK_MS = 500, LIVE_MS = 2000, PARTS_MS = 30000, LONGEST_MS = 30000;

// Where a key is needed it stays in memory: not in the address, not in the browser's storage.
let key = "";
export const access = { locked: false, use(given) { key = given; access.locked = false; again(); } };

function changed() {
  document.dispatchEvent(new Event("answered"));
}

async function ask(path, headers = {}) {
  const answer = await fetch("/v1/dashboard/" + path, { headers: key ? { ...headers, "X-API-Key": key } : headers });
  if (answer.status === 304) return { same: true };
  access.locked = answer.status === 401 || answer.status === 403;
  const text = await answer.text();
  if (!answer.ok) throw new Error(reason(text, answer.status));
  return { text, tag: answer.headers.get("ETag") };
}

function reason(text, status) {
  try {
    const { detail } = JSON.parse(text);
    return detail.charAt(0).toUpperCase() + detail.slice(1) + ".";
  } catch {
    return `The API answered with status ${status}.`;
  }
}

function words(error) {
  return error instanceof TypeError ? "The API does not answer." : error.message;
}

// One part: `question` makes the query of a state, null when there is nothing to ask; `asked` is the last one.
// `version` grows when `body` differs.
class Part {
  constructor(path, question) {
    Object.assign(this, { path, question, asked: null, pending: null, text: null, body: null, error: null });
    this.version = 0;
  }

  async refresh() {
    const query = this.question(state());
    if (this.asked !== query) Object.assign(this, { asked: query, text: null, body: null, error: null });
    if (query === null || this.pending === query) return;
    this.pending = query;
    try {
      const { text } = await ask(`${this.path}?${new URLSearchParams(query)}`);
      if (this.asked === query) this.take(text);
    } catch (error) {
      if (this.asked === query) this.error = words(error);
    } finally {
      if (this.pending === query) this.pending = null;
      changed();
    }
  }

  take(text) {
    this.error = null;
    if (text === this.text) return;
    this.text = text;
    this.body = JSON.parse(text);
    this.version += 1;
  }
}

function query(fields) {
  return new URLSearchParams(fields).toString();
}

function ofRetriever(fields) {
  return now => {
    const retriever = chosen(now), more = fields(now);
    if (retriever === null || more === null) return null;
    return query({ since: now.since, until: now.until, retriever, ...more });
  };
}

export const signals = new Part("signals", ({ since, until, retriever }) => (
  query(retriever === null ? { since, until } : { since, until, retriever })));
export const trend = new Part("trend", ofRetriever(({ page }) => (page === "" ? {} : null)));
export const alerts = new Part("alerts", () => "");
export const subject = new Part("details", ofRetriever(({ page, q, id }) => {
  if (page === "query") return { query: q };
  return page === "document" && id ? { feature_id: id } : null;
}));
export const alert = new Part("alert", ({ page, retriever, id }) => {
  const [rule, since_ms] = id.split("@");
  return page === "alert" ? query({ rule, since_ms: since_ms ?? "", retriever: retriever ?? "" }) : null;
});

// The retriever that is shown: the one named, else the first that the API knows of.
export function chosen(now = state()) {
  return now.retriever ?? (signals.body ? signals.body.retriever : null);
}

// In this order, as the days of the one that comes first are then counted for the others too.
export async function refresh() {
  const other = Promise.all([alerts.refresh(), alert.refresh()]);
  await signals.refresh();
  await Promise.all([trend.refresh(), subject.refresh(), other]);
}

// What changes by the second. `body` is the last answer, `failures` how many requests in a row were not answered since
// `lostAt`; `rate` is in events a second.
export const live = {
  body: null, version: 0, rate: null, failures: 0, error: null, lostAt: null, nextAt: 0, paused: null,
};
let tag = "", sent = false, skew = 0;

// The server's clock: the browser's may be wrong.
export function serverNow() {
  return Date.now() + skew;
}

async function refreshLive() {
  if (sent || document.hidden || live.paused !== null) return;
  sent = true;
  try {
    const { same, text, tag: newTag } = await ask("live", tag ? { "If-None-Match": tag } : {});
    const wasLost = live.failures > 0;
    Object.assign(live, { failures: 0, lostAt: null, error: null });
    if (same) live.rate = 0;
    else {
      takeLive(JSON.parse(text));
      tag = newTag;
    }
    if (wasLost) refresh();
  } catch (error) {
    live.failures += 1;
    live.lostAt ??= serverNow();
    live.error = words(error);
  } finally {
    sent = false;
    live.nextAt = Date.now() + pause();
    changed();
  }
}

function takeLive(body) {
  const before = live.body, more = before ? body.since_start.applied - before.since_start.applied : -1;
  skew = body.at_ms - Date.now();
  if (before && before.workers && more >= 0) live.rate = more / ((body.at_ms - before.at_ms) / 1000);
  live.body = body;
  live.version += 1;
}

function pause() {
  // Jitter, or all pages would come back at the same moment.
  return live.failures ? Math.min(LONGEST_MS, 1000 * 2 ** live.failures) * (0.8 + 0.4 * Math.random()) : LIVE_MS;
}

export function again() {
  live.nextAt = 0;
  refresh();
  refreshLive();
}

export function setPaused(paused) {
  live.paused = paused ? serverNow() : null;
  if (!paused) again();
  changed();
}

export function start() {
  again();
  setInterval(() => {
    if (Date.now() >= live.nextAt) refreshLive();
    changed();
  }, TICK_MS);
  setInterval(() => { if (!document.hidden && live.paused === null && !live.failures) refresh(); }, PARTS_MS);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) again(); });
}
