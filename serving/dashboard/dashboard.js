// The dashboard: reads its state from the address, asks the API, and says what it finds. Queries and ids are hostile
// text: they only ever become text nodes.
"use strict";

const LIVE_MS = 2000, PERIOD_MS = 30000, DAY = 86400000, HOUR = 3600000, ROWS = 10;
const main = document.getElementById("main"), fresh = document.getElementById("fresh");
const picks = { retriever: document.getElementById("retriever"), days: document.getElementById("days"), compare: document.getElementById("compare") };
const TITLES = { "": "Relevance", queries: "Low-CTR queries", skipped: "Ranked high, skipped", zero: "Zero-result queries", alerts: "Alerts", blind: "Blind spots", pipeline: "Pipeline", query: "Query", document: "Document" };

const seen = { live: null, tag: "", rate: null, period: null, error: null, details: null, detailsOf: "" };
let key = "", paused = false, drop = [], failures = 0;

// ---- state in the address

function state() {
  const found = new URLSearchParams(location.search);
  const days = Number(found.get("days")) || 7;
  const until = found.get("until") || new Date().toISOString().slice(0, 10);
  return {
    page: location.pathname.replace(/^\/dashboard\/?/, ""), r: found.get("r"), until,
    since: found.get("since") || new Date(Date.parse(until) - (days - 1) * DAY).toISOString().slice(0, 10), days,
    compare: found.get("cmp") !== "off", q: found.get("q"), id: found.get("id"), f: found.get("f") || "",
  };
}

function address(page, changes = {}) {
  const query = new URLSearchParams(location.search);
  if (page !== undefined) { query.delete("f"); query.delete("q"); query.delete("id"); }
  for (const [name, value] of Object.entries(changes)) value === null ? query.delete(name) : query.set(name, value);
  const text = query.toString();
  const path = page === undefined ? location.pathname : "/dashboard" + (page ? "/" + page : "");
  return path + (text ? "?" + text : "");
}

function go(to) {
  history.pushState(null, "", to);
  arrive();
}

function arrive() {
  const now = state();
  if (seen.period && (seen.period.of !== periodOf(now))) seen.period = null;
  render();
  main.focus();
  refreshPeriod();
}

// ---- words

const count = new Intl.NumberFormat("en-GB");
const NONE = "—";

function digits(rate) {
  const half = (rate.high - rate.low) / 2;
  return half < 0.001 ? 2 : half > 0.03 ? 0 : 1;
}

function percent(value, decimals = 1) {
  return value === null || value === undefined ? NONE : (100 * value).toFixed(decimals) + "%";
}

function rateText(rate) {
  if (rate.value === null) return NONE;
  const d = digits(rate), bare = value => (100 * value).toFixed(d);
  return `${bare(rate.value)}% (${bare(rate.low)}–${bare(rate.high)})`;
}

function placeText(mean) {
  return mean.value === null ? NONE : (mean.value + 1).toFixed(1);
}

function signed(value, d) {
  return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(d);
}

function changeText(change, points) {
  if (!change || change.difference === null) return "";
  if (!change.clear) return "no clear change";
  const scale = points ? 100 : 1, d = points ? 1 : 2;
  return `${signed(scale * change.difference, d)}${points ? " pp" : ""} (${signed(scale * change.low, d)} to ${signed(scale * change.high, d)})`;
}

function moment(ms) {
  return new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hour12: false }).format(ms).replace(",", "");
}

function asked(query) {
  return query === "" ? "(empty query)" : query;
}

// ---- elements

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter(child => child !== null));
  return element;
}

function link(to, ...text) {
  return h("a", { href: to, onclick: event => { if (!event.ctrlKey && !event.metaKey && !event.shiftKey) { event.preventDefault(); go(to); } } }, ...text);
}

function named(to, text) {
  return h("span", {}, link(to, h("bdi", {}, text)));
}

function section(id, title, sub, ...children) {
  return h("section", { id, "aria-labelledby": id + "-title" }, h("h2", { id: id + "-title" }, title), sub ? h("p", { class: "sub" }, sub) : null, ...children);
}

// columns: [head, cell of a row, kind], kind "n" for numbers, "name" for hostile text, "minor" is left out on a phone
function table(label, columns, rows) {
  const kind = one => one[2] || "";
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label + ", table" },
    h("table", {}, h("caption", { class: "hidden" }, label),
      h("thead", {}, h("tr", {}, ...columns.map(one => h("th", { scope: "col", class: kind(one), "aria-sort": one[3] || null }, one[0])))),
      h("tbody", {}, ...rows.map(row => h("tr", {}, ...columns.map(one => h("td", { class: kind(one) }, one[1](row))))))));
}

function asTable(label, columns, rows) {
  return h("details", {}, h("summary", {}, "Show as table"), table(label, columns, rows));
}

function later(make) {
  queueMicrotask(() => { const stop = make(); if (stop) drop.push(stop); });
}

// ---- sections

function alertList(book, all) {
  const open = book.alerts.filter(one => one.until_ms === null), closed = book.alerts.filter(one => one.until_ms !== null).reverse();
  const rows = all ? [...open, ...closed] : open.slice(0, 5);
  const checked = book.checked_ms ? `Checked ${moment(book.checked_ms)} UTC.` : "Not checked yet: run clickwell alerts check.";
  const item = one => h("li", {}, h("span", { class: one.until_ms === null ? "bad" : "good" }, one.until_ms === null ? "▲ open " : "✓ closed "),
    h("strong", {}, one.rule.replaceAll("_", " ")), ` · ${one.sentence} · since ${moment(one.since_ms)}${one.until_ms ? ` to ${moment(one.until_ms)}` : ""} · `, h("bdi", {}, one.retriever_id || "(no retriever)"));
  return section("alerts", "Alerts", checked,
    rows.length ? h("ul", { class: "alerts" }, ...rows.map(item)) : h("p", {}, book.checked_ms ? "Nothing is wrong." : "No check, no news."),
    all ? null : h("p", { class: "more" }, link(address("alerts"), `all ${book.alerts.length}`)));
}

function sixNumbers(signals) {
  const n = signals.numbers, c = state().compare ? signals.comparison : null;
  const one = (name, big, small, change, points) => h("div", {}, h("dt", {}, name), h("dd", { class: "big" }, big), h("dd", {}, small),
    h("dd", { class: "change" + (change && change.clear ? " clear" : "") }, changeText(change, points)));
  const rate = (name, value, change) => {
    const d = value.value === null ? 0 : digits(value);
    return one(name, percent(value.value, d), value.value === null ? "no evidence" : `${(100 * value.low).toFixed(d)}–${(100 * value.high).toFixed(d)}% of ${count.format(value.of)}`, change, true);
  };
  const delay = n.first_click_ms;
  return section("now", "Six numbers", "CTR: clicks over results shown. Searches with a click: searches with at least one, of those with results.",
    h("dl", { class: "six" },
      one("searches", n.searches ? count.format(n.searches) : NONE, n.searches ? "" : "no searches yet", null, false),
      rate("CTR", n.ctr, c && c.ctr_at_equal_positions), rate("searches with a click", n.searches_with_click, c && c.searches_with_click),
      rate("skip rate", n.skip_rate, c && c.skip_rate), rate("zero results", n.zero_results, c && c.zero_results),
      one("first click at", placeText(n.first_click_position), delay ? `${(delay.median / 1000).toFixed(1)} s after the search` : "no clicks", c && c.first_click_position, false)));
}

function buckets(trend, since, until, width) {
  const first = Date.parse(since), last = Math.min(Date.parse(until) + DAY, Math.floor(seen.period.at_ms / HOUR) * HOUR + HOUR);
  const rows = new Map();
  trend.hours.forEach((hour, i) => {
    const at = first + Math.floor((hour - first) / width) * width, row = rows.get(at) || { shown: 0, clicks: 0, examined: 0, searches: 0 };
    for (const name of Object.keys(row)) row[name] += trend[name][i];
    rows.set(at, row);
  });
  const times = [];
  for (let at = first; at < last; at += width) times.push(at);
  return { times, rows: times.map(at => rows.get(at) || null) };
}

function trends(signals, trend, before) {
  const { since, until, days, compare } = state();
  const width = days <= 7 ? HOUR : days <= 31 ? 6 * HOUR : DAY, each = width === HOUR ? "hour" : width === DAY ? "day" : "6 hours";
  const now = buckets(trend, since, until, width), length = Date.parse(until) + DAY - Date.parse(since);
  const past = new Map(buckets(before, new Date(Date.parse(since) - length).toISOString(), new Date(Date.parse(since) - DAY).toISOString(), width).rows.map((row, i) => [i, row]));
  const marks = [...trend.new_rankers.map(([at, name]) => ({ at, text: "ranker " + name })),
    ...seen.period.alerts.alerts.filter(one => one.retriever_id === signals.retriever_id).map(one => ({ at: one.since_ms, text: one.rule.replaceAll("_", " ") }))]
    .filter(mark => mark.at >= Date.parse(since));
  const figure = (title, of, rateOf) => {
    const points = now.rows.map(row => row ? rateOf(row) : wilson(0, 0)), earlier = now.rows.map((_, i) => compare && past.get(i) ? rateOf(past.get(i)) : null);
    const box = h("div", { class: "chart" });
    const describe = i => `${moment(now.times[i])} UTC: ${rateText(points[i])}`;
    later(() => lineChart(box, { times: now.times, now: points, before: earlier, marks, label: title, describe }));
    const full = points.filter(one => one.value !== null);
    const sub = full.length ? `${rateText(of)} over the period; by ${each}, with 95% interval${compare ? "; dashed: the period before" : ""}.` : "First full hour soon: no results shown yet.";
    return h("figure", {}, h("figcaption", { class: "sub" }, h("strong", {}, title), " · " + sub), box,
      asTable(title + " over time", [["begin, UTC", i => moment(now.times[i])], [title, i => rateText(points[i]), "n"], ["of", i => count.format(now.rows[i] ? (title === "CTR" ? now.rows[i].shown : now.rows[i].examined) : 0), "n"]], now.times.map((_, i) => i)));
  };
  return section("trend", "CTR and skips", null, h("div", { class: "two" },
    figure("CTR", signals.numbers.ctr, row => wilson(row.clicks, row.shown)),
    figure("Skip rate", signals.numbers.skip_rate, row => wilson(row.examined - row.clicks, row.examined))));
}

function positions(rows, title = "CTR by position") {
  const folded = rows.filter(row => row.position < 10).map(row => [String(row.position + 1), row.ctr]);
  for (const [name, from, to] of [["11–20", 10, 20], ["21+", 20, Infinity]]) {
    const part = rows.filter(row => row.position >= from && row.position < to);
    const clicks = part.reduce((sum, row) => sum + row.ctr.count, 0), shown = part.reduce((sum, row) => sum + row.ctr.of, 0);
    if (shown) folded.push([name, { count: clicks, of: shown, ...wilson(clicks, shown) }]);
  }
  const box = h("div", { class: "chart" });
  if (folded.length) later(() => dotChart(box, folded, rateText, title));
  const at = position => rows.find(row => row.position === position && row.ctr.count > 0);
  const sub = !folded.length ? "No results shown yet." : at(0) && at(4) ? `The first result gets ${(at(0).ctr.value / at(4).ctr.value).toFixed(1)} times the clicks of the fifth.` : "Dots with 95% intervals.";
  return section("positions", title, sub, h("figure", { "aria-labelledby": "positions-title" }, box,
    asTable(title, [["position", row => row[0]], ["CTR", row => rateText(row[1]), "n"], ["shown", row => count.format(row[1].of), "n"]], folded)));
}

function findings(id, title, found, sub, empty, columns, keyOf, all) {
  const { f } = state();
  const rows = found.rows.filter(row => keyOf(row).toLowerCase().includes(f.toLowerCase()));
  const shown = all ? rows : rows.slice(0, ROWS);
  return section(id, title, found.found ? sub : null,
    all ? h("p", {}, h("label", {}, "Filter ", h("input", { type: "search", id: "filter", value: f, oninput: event => { history.replaceState(null, "", address(undefined, { f: event.target.value || null })); const at = event.target.selectionStart; render(); const again = document.getElementById("filter"); again.focus(); again.setSelectionRange(at, at); } }))) : null,
    found.found ? table(title, columns, shown) : h("p", {}, empty),
    !all && found.found > ROWS ? h("p", { class: "more" }, link(address(id), `all ${count.format(found.found)}`)) : null,
    all && found.found > found.rows.length ? h("p", { class: "sub" }, `The worst ${found.rows.length} of ${count.format(found.found)}.`) : null);
}

function queries(signals, all) {
  const found = signals.low_ctr_queries;
  return findings("queries", "Low-CTR queries", found, `${count.format(found.found)} of ${count.format(found.tested)} queries with enough evidence are below 5% with confidence.`,
    `No query is below 5% with confidence. ${count.format(found.too_little_evidence)} have too little evidence.`,
    [["query", row => named(address("query", { q: row.query }), asked(row.query)), "name"], ["searches", row => count.format(row.searches), "n minor"],
      ["CTR", row => rateText(row.ctr), "n"], ["expected", row => percent(row.expected), "n minor"], ["clicks lost", row => count.format(Math.round(row.clicks_lost)), "n", "descending"],
      ["first click at", row => placeText(row.first_click_position), "n minor"]], row => row.query, all);
}

function skipped(signals, all) {
  const found = signals.skipped_documents;
  return findings("skipped", "Ranked high, skipped", found, `${count.format(found.found)} of ${count.format(found.tested)} documents with enough evidence at the top 3 are passed over.`,
    `No document at the top is passed over with confidence. ${count.format(found.too_little_evidence)} have too little evidence.`,
    [["document", row => named(address("document", { id: row.feature_id }), row.feature_id), "name"], ["at top 3", row => count.format(row.shown_at_top), "n minor"],
      ["skip rate", row => rateText(row.skip_rate), "n"], ["expected", row => percent(row.expected), "n minor"], ["skips above expected", row => count.format(Math.round(row.skips_above_expected)), "n", "descending"]], row => row.feature_id, all);
}

function zero(signals, all) {
  const found = signals.zero_result_queries;
  return findings("zero", "Zero-result queries", found, `${count.format(found.found)} queries find nothing, with confidence.`,
    `${count.format(signals.numbers.searches)} searches checked, all had results. If that looks wrong: send searches with an empty results list.`,
    [["query", row => named(address("query", { q: row.query }), asked(row.query)), "name"], ["zero results", row => rateText(row.zero_results), "n"], ["last seen", row => moment(row.last_at), "n minor"],
      ["asked next", row => row.next_query === null ? NONE : h("bdi", {}, `${asked(row.next_query)} (${row.next_searches})`), "name minor"], ["searches", row => count.format(row.zero_results.of), "n", "descending"]], row => row.query, all);
}

function popular() {
  const rows = seen.live ? seen.live.popular : [];
  return section("popular", "Popular now", rows.length ? "By what people do now: the weight of an interaction halves within a day (setting)." : null,
    rows.length ? table("Popular now", [["rank", row => String(row.rank), "n"], ["document", row => named(address("document", { id: row.feature_id }), row.feature_id), "name"], ["weight", row => row.weight.toFixed(1), "n", "descending"]], rows)
      : h("p", {}, seen.live ? "No clicks yet. Try: clickwell simulate --rate 200" : "Reading …"));
}

function blind(signals) {
  const b = signals.blind_spots;
  const rows = [["Documents clicked deep in the list that hardly ever stood at the top", count.format(b.deep_documents)],
    ["Documents clicked elsewhere and never shown here", count.format(b.unseen_documents)],
    ["Queries with too little evidence for a CTR", `${count.format(b.thin_queries)}${b.thin_searches === null ? "" : `, ${percent(b.thin_searches, 0)} of searches`}`]];
  return section("blind", "Blind spots", "What these numbers cannot see, or what is never shown.", table("Blind spots", [["what", row => row[0]], ["how many", row => row[1], "n"]], rows));
}

function pipeline() {
  const l = seen.live;
  if (!l) return section("pipeline", "Pipeline", null, h("p", {}, "Reading …"));
  if (!l.workers.length) return section("pipeline", "Pipeline", null, h("p", { class: "banner" }, "No worker has reported. Start one: ", h("code", {}, "clickwell worker")));
  const lanes = Object.entries(l.lag), t = l.since_start;
  const facts = [["workers", count.format(l.workers.length)], ["events applied since they started", count.format(t.applied)], ["events a second", seen.rate === null ? NONE : count.format(Math.round(seen.rate))],
    ["duplicates left out", count.format(t.duplicates)], ["too late for the window", count.format(t.late)], ["dead letters", count.format(t.dead_letters)], ["rewinds", count.format(t.rewinds)], ["lost to retention", count.format(t.lost)]];
  return section("pipeline", "Pipeline", t.dead_letters ? "Dead letters wait to be mended: clickwell dead-letters list" : "Whether this page can be trusted.",
    table("Lag", [["lane", row => row[0]], ["state", row => row[1] > 10000 ? h("span", { class: "warn" }, "! behind") : h("span", { class: "good" }, "✓ caught up")], ["records to apply", row => count.format(row[1]), "n"]], lanes),
    table("Since the workers started", [["what", row => row[0]], ["count", row => row[1], "n"]], facts));
}

function detail(now) {
  const d = seen.details, what = now.page === "query" ? asked(now.q || "") : now.id || "";
  const title = h("h1", {}, now.page === "query" ? "Query " : "Document ", h("bdi", {}, what));
  if (!d) return [title, h("p", { class: "evidence" }, "Reading the days …"), h("div", { class: "bar" })];
  const shown = d.positions.reduce((sum, one) => sum + one[1].of, 0), clicks = d.positions.reduce((sum, one) => sum + one[1].count, 0);
  const verdict = shown ? `Clicked ${count.format(clicks)} times of ${count.format(shown)} shown: CTR ${rateText({ count: clicks, of: shown, ...wilson(clicks, shown) })}.` : "Nothing of it was shown in these days.";
  const other = now.page === "query" ? ["document", row => named(address("document", { id: row.feature_id }), row.feature_id), "name"] : ["query", row => named(address("query", { q: row.query }), asked(row.query)), "name"];
  return [title, h("p", { class: "evidence" }, verdict), positions(d.positions.map(([position, ctr]) => ({ position, ctr }))),
    section("pairs", now.page === "query" ? "Documents shown" : "Queries that show it", null, table("Pairs", [other, ["mean position", row => (row.position + 1).toFixed(1), "n minor"], ["CTR", row => rateText(row.ctr), "n"], ["skipped", row => rateText(row.skip_rate), "n minor"], ["shown", row => count.format(row.ctr.of), "n", "descending"]], d.pairs)),
    section("by-day", "By day", null, table("By day", [["day, UTC", row => row.day], ["searches", row => count.format(row.searches), "n"], ["CTR", row => rateText(row.ctr), "n"]], d.days)),
    now.page === "query" ? h("p", {}, "In the terminal: ", h("code", {}, `clickwell signals --retriever ${now.r || (seen.period && seen.period.retriever) || "NAME"}`)) : null];
}

// ---- the page

function render() {
  const now = state(), period = seen.period;
  for (const stop of drop) stop();
  drop = [];
  if (picks.retriever.options.length === 0 && period) for (const name of period.retrievers) picks.retriever.append(h("option", { value: name }, name || "(none)"));
  if (period) picks.retriever.value = period.retriever;
  picks.days.value = String(now.days);
  picks.compare.checked = now.compare;
  const open = seen.live ? seen.live.alerts_open : 0, subject = now.q ?? now.id;
  document.title = `${open ? `(${open}) ` : ""}${subject ? subject.slice(0, 60) + " — " : ""}${TITLES[now.page] || "Relevance"} · clickwell`;
  const parts = [];
  if (seen.error) parts.push(h("p", { class: "banner bad", role: "alert" }, seen.error, " ", h("button", { type: "button", onclick: () => { refreshPeriod(); refreshLive(); } }, "Retry now")));
  main.dataset.state = seen.error ? "error" : !period ? "loading" : !period.signals ? "empty" : "ready";
  if (main.dataset.state === "error" && seen.locked) parts.push(askForKey());
  if (now.page === "query" || now.page === "document") parts.push(...detail(now));
  else if (!period) parts.push(h("h1", {}, TITLES[now.page]), ...["Alerts", "Six numbers", "CTR and skips", "CTR by position"].map(name => h("section", {}, h("h2", {}, name), h("div", { class: "bar" }))));
  else if (!period.signals) parts.push(h("h1", {}, TITLES[now.page]), h("p", {}, "No searches yet. Send the first ones:"), h("p", {}, h("code", {}, "clickwell simulate --rate 200")), h("p", {}, "They appear here when the sink has written them, within 15 seconds."), popular(), pipeline());
  else {
    const s = period.signals, all = now.page !== "";
    const evidence = `${s.numbers.since} to ${s.numbers.until}, UTC, both included; ${count.format(s.numbers.ctr.of)} results shown in ${count.format(s.numbers.searches)} searches.`;
    const pages = { alerts: () => [alertList(period.alerts, true)], queries: () => [queries(s, true)], skipped: () => [skipped(s, true)], zero: () => [zero(s, true)], blind: () => [blind(s)], pipeline: () => [pipeline()] };
    parts.push(h("h1", {}, TITLES[now.page] || "Relevance"), h("p", { class: "evidence" }, evidence));
    parts.push(...(all && pages[now.page] ? pages[now.page]() : [alertList(period.alerts, false), sixNumbers(s), trends(s, period.trend, period.trend_before), positions(s.ctr_by_position), queries(s, false), skipped(s, false), zero(s, false), popular(), blind(s), pipeline()]));
  }
  if (now.page) parts.push(h("p", { class: "more" }, link(address(""), "Back to the overview")));
  main.replaceChildren(...parts.filter(part => part !== null));
}

function askForKey() {
  return h("form", { onsubmit: event => { event.preventDefault(); key = event.target.elements.key.value; refreshPeriod(); refreshLive(); } },
    h("label", {}, "Key with scope read ", h("input", { type: "password", name: "key", autocomplete: "off" })), " ", h("button", {}, "Use it"),
    h("p", { class: "sub" }, "Make one: ", h("code", {}, "clickwell keys create --scope read")));
}

// The popular and pipeline sections change every two seconds; nothing else on the page is touched by that.
function renderLive() {
  for (const [id, make] of [["popular", popular], ["pipeline", pipeline]]) {
    const old = document.getElementById(id);
    if (old && !old.contains(document.activeElement) && !old.matches(":hover")) old.replaceWith(make());
  }
}

// ---- asking

async function ask(path, headers = {}) {
  const answer = await fetch(path, { headers: key ? { ...headers, "X-API-Key": key } : headers, credentials: "same-origin" });
  if (answer.status === 304) return null;
  seen.locked = answer.status === 401 || answer.status === 403;
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Error(problem.detail || `the API answered ${answer.status}`);
  }
  return { body: await answer.json(), tag: answer.headers.get("ETag") };
}

function periodOf(now) {
  return JSON.stringify([now.r, now.since, now.until]);
}

let asking = false;
async function refreshPeriod() {
  const now = state(), of = periodOf(now);
  if (asking) return;
  asking = true;
  try {
    const query = new URLSearchParams({ since: now.since, until: now.until });
    if (now.r !== null) query.set("retriever", now.r);
    const { body } = await ask("/v1/dashboard/period?" + query);
    if (of === periodOf(state())) {
      const first = !seen.period;
      seen.period = { ...body, of };
      seen.error = null;
      const busy = main.contains(document.activeElement) && document.activeElement !== main;
      if (first || !busy) render();
    }
    if (now.page === "query" || now.page === "document") await refreshDetails(now);
  } catch (error) {
    fail(error);
  } finally {
    asking = false;
    if (of !== periodOf(state())) refreshPeriod();
  }
}

async function refreshDetails(now) {
  const query = new URLSearchParams({ since: now.since, until: now.until, retriever: now.r ?? seen.period.retriever ?? "" });
  now.page === "query" ? query.set("query", now.q || "") : query.set("feature_id", now.id || "");
  const of = query.toString();
  if (seen.detailsOf === of && seen.details) return;
  seen.details = null;
  seen.detailsOf = of;
  const { body } = await ask("/v1/dashboard/details?" + of);
  if (seen.detailsOf === of) { seen.details = body; render(); }
}

let asked_live = false;
async function refreshLive() {
  if (asked_live || document.hidden || paused) return;
  asked_live = true;
  try {
    const found = await ask("/v1/dashboard/live", seen.tag ? { "If-None-Match": seen.tag } : {});
    failures = 0;
    const at = Date.now();
    if (found) {
      const before = seen.live;
      if (before && before.workers.length && found.body.since_start.applied >= before.since_start.applied) seen.rate = (found.body.since_start.applied - before.since_start.applied) / ((found.body.at_ms - before.at_ms) / 1000);
      seen.live = found.body;
      seen.tag = found.tag;
      renderLive();
    } else seen.rate = 0;
    freshness(`live · ${moment(at)} UTC`);
    if (seen.offline) { seen.offline = false; refreshPeriod(); }
  } catch (error) {
    failures += 1;
    seen.offline = true;
    freshness(`reconnecting, next try in ${Math.min(30, 2 ** failures)} s`);
    if (!seen.live) fail(error);
  } finally {
    asked_live = false;
  }
}

function freshness(text) {
  if (fresh.textContent !== text) fresh.textContent = text;
}

function fail(error) {
  seen.error = error instanceof TypeError ? "The API does not answer." : error.message.charAt(0).toUpperCase() + error.message.slice(1);
  // Not under somebody's fingers: a key that is being typed would be gone.
  if (!(document.activeElement instanceof HTMLInputElement && main.contains(document.activeElement))) render();
}

async function forEver(what, every) {
  for (;;) {
    await new Promise(done => setTimeout(done, every()));
    if (!document.hidden && !paused) await what();
  }
}

// ---- controls

picks.retriever.addEventListener("change", () => go(address(undefined, { r: picks.retriever.value })));
picks.days.addEventListener("change", () => go(address(undefined, { days: picks.days.value, since: null, until: null })));
picks.compare.addEventListener("change", () => go(address(undefined, { cmp: picks.compare.checked ? null : "off" })));
document.getElementById("frame").addEventListener("submit", event => event.preventDefault());
document.getElementById("copy").addEventListener("click", async event => {
  const now = state(), to = new URL(address(undefined, { since: now.since, until: now.until, ...(seen.period ? { r: seen.period.retriever } : {}) }), location.href).href;
  try { await navigator.clipboard.writeText(to); event.target.textContent = "Copied"; } catch { prompt("Link", to); }
  setTimeout(() => { event.target.textContent = "Copy link"; }, 2000);
});
document.getElementById("pause").addEventListener("click", event => {
  paused = !paused;
  event.target.setAttribute("aria-pressed", String(paused));
  event.target.textContent = paused ? "Go on" : "Pause";
  freshness(paused ? `paused ${moment(Date.now())} UTC` : "live");
  if (!paused) { refreshLive(); refreshPeriod(); }
});
const theme = document.getElementById("theme");
function setTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  theme.textContent = `Theme: ${name}`;
  document.dispatchEvent(new Event("themed"));
}
theme.addEventListener("click", () => {
  const next = { auto: "light", light: "dark", dark: "auto" }[document.documentElement.dataset.theme || "auto"];
  try { localStorage.setItem("theme", next); } catch { /* then it lasts as long as the page */ }
  setTheme(next);
});
try { setTheme(localStorage.getItem("theme") || "auto"); } catch { setTheme("auto"); }
addEventListener("popstate", arrive);
document.addEventListener("visibilitychange", () => { if (!document.hidden) { refreshLive(); refreshPeriod(); } });

render();
refreshPeriod();
refreshLive();
forEver(refreshLive, () => failures ? 1000 * Math.min(30, 2 ** failures) : LIVE_MS);
forEver(refreshPeriod, () => PERIOD_MS);
