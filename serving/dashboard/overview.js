// The first sections of the overview: what is wrong, how we are, since when, and whether the order is right.
import { address, state } from "./address.js";
import { serverNow } from "./asking.js";
import { dots } from "./dots.js";
import { asTable, chart, command, h, link, section } from "./elements.js";
import { lines } from "./lines.js";
import {
  byWeight, changeText, DAY, decimalsOf, HOUR, intervalText, isThin, moment, NONE, percent, placeText, rate, rateText,
  ruleText, sentenceText, summed, whole,
} from "./words.js";

const SHOWN_ALERTS = 5;

export function alertList(book, all) {
  const open = book.alerts.filter(isOpen).sort(byWeight), closed = book.alerts.filter(one => !isOpen(one)).reverse();
  const rows = all ? [...open, ...closed] : open.slice(0, SHOWN_ALERTS), hidden = book.alerts.length - rows.length;
  const more = open.length > rows.length ? `all ${whole(book.alerts.length)}` : `${whole(hidden)} closed lately`;
  const unchecked = ["Not checked yet. A running stack does so by itself; or run ", command("clickwell alerts check")];
  const checked = book.checked_ms === null ? null : `Checked up to ${moment(book.checked_ms)} UTC.`;
  const nothing = h("p", {}, checked ? "Nothing is wrong." : unchecked);
  return section("alerts", "Alerts", checked,
    rows.length ? h("ul", { class: "alerts" }, rows.map(alertLine)) : nothing,
    hidden && !all ? h("p", { class: "more" }, link(address("alerts"), more)) : null);
}

function isOpen(alert) {
  return alert.until_ms === null;
}

function alertLine(one) {
  const until = isOpen(one) ? "" : ` to ${moment(one.until_ms)}`, id = `${one.rule}@${one.since_ms}`;
  return h("li", {},
    h("span", { class: isOpen(one) ? "bad" : "good" }, isOpen(one) ? "▲ open " : "✓ closed "),
    link(address("alert", { r: one.retriever_id, id }), sentenceText(one.sentence)),
    ` · since ${moment(one.since_ms)}${until} · `,
    h("bdi", {}, one.retriever_id || "(no retriever)"));
}

function number(name, big, small, change = null, isRate = true) {
  return h("div", {}, h("dt", {}, name), h("dd", { class: "big" }, big), h("dd", {}, small),
    h("dd", { class: change && change.clear ? "change clear" : "change" }, changeText(change, isRate)));
}

function share(name, value, of, change) {
  if (!value.of) return number(name, NONE, `no ${of} yet`);
  const counts = `${whole(value.count)} of ${whole(value.of)} ${of}`;
  if (isThin(value)) return number(name, NONE, counts + ": too little evidence");
  const interval = `${intervalText(value)}% of ${whole(value.of)} ${of}`;
  return number(name, percent(value.value, decimalsOf(value)), interval, change);
}

export function sixNumbers({ numbers: n, comparison }) {
  const c = state().compare && comparison ? comparison : {}, delay = n.first_click_ms;
  const waited = delay ? `${(delay.median / 1000).toFixed(1)} s after the search` : "no clicks yet";
  const words = "CTR: clicks over results shown. Searches with a click: with at least one, of those with results.";
  return section("now", "Six numbers", words, h("dl", { class: "six" },
    number("searches", n.searches ? whole(n.searches) : NONE, n.searches ? "" : "no searches yet"),
    share("CTR", n.ctr, "shown", c.ctr_at_equal_positions),
    share("searches with a click", n.searches_with_click, "searches", c.searches_with_click),
    share("skip rate", n.skip_rate, "examined", c.skip_rate),
    share("zero results", n.zero_results, "searches", c.zero_results),
    number("first click at", placeText(n.first_click_position), waited, c.first_click_position, false)));
}

// Adds the hours of a trend up to buckets of a width, from one time to another; null where nobody searched.
function buckets(hours, from, to, width) {
  const rows = Array.from({ length: Math.max(0, Math.ceil((to - from) / width)) }, () => null);
  hours.hours.forEach((hour, i) => {
    const at = Math.floor((hour - from) / width);
    if (at < 0 || at >= rows.length) return;
    rows[at] ??= { shown: 0, clicks: 0, examined: 0 };
    for (const name of ["shown", "clicks", "examined"]) rows[at][name] += hours[name][i];
  });
  return rows;
}

// Few enough points to tell them apart, and enough evidence in each.
function widthOf(days) {
  if (days <= 7) return [HOUR, "hour"];
  return days <= 31 ? [6 * HOUR, "6 hours"] : [DAY, "day"];
}

export function trends({ numbers, retriever_id: retriever }, trend, alerts) {
  const { since, until, days, compare } = state(), from = Date.parse(since), end = Date.parse(until) + DAY;
  const [width, each] = widthOf(days), now = buckets(trend, from, Math.min(end, serverNow()), width);
  const before = compare ? buckets(trend, from - (end - from), from, width) : [];
  const rankers = trend.new_rankers.map(([at, name]) => ({ at, text: "ranker " + name }));
  const found = alerts.filter(one => one.retriever_id === retriever);
  const marks = [...rankers, ...found.map(one => ({ at: one.since_ms, text: ruleText(one.rule) }))];
  const shown = {
    times: now.map((_, i) => from + i * width), running: serverNow() < end ? now.length - 1 : -1, each, compare,
    marks: marks.sort((a, b) => a.at - b.at),
  };
  const ctr = row => rate(row.clicks, row.shown), skips = row => rate(row.examined - row.clicks, row.examined);
  return section("trend", "CTR and skips", null, h("div", { class: "two" },
    trendFigure("CTR", "--c1", numbers.ctr, now, before, ctr, shown),
    trendFigure("Skip rate", "--c2", numbers.skip_rate, now, before, skips, shown)));
}

function trendFigure(title, token, all, now, before, of, { times, running, each, compare, marks }) {
  const points = now.map(row => (row ? of(row) : rate(0, 0)));
  const past = now.map((_, i) => (before[i] ? of(before[i]) : null));
  const time = i => moment(times[i]) + (i === running ? " (still running)" : "");
  const describe = i => `${time(i)} UTC: ${rateText(points[i])}`;
  const drawn = { times, now: points, before: past, marks, running, label: title, token, describe };
  const signs = (compare ? "; dashed: the period before" : "") + (running >= 0 ? "; ring: still running" : "");
  const drawnAs = `by ${each}, with 95% interval${signs}`;
  const sub = all.of ? `${rateText(all)} over the period; ${drawnAs}.` : "No results shown.";
  const columns = [["begin, UTC", time], [title, i => rateText(points[i]), "n"], ["of", i => whole(points[i].of), "n"]];
  const rows = times.map((_, i) => i).filter(i => points[i].of);
  const caption = h("figcaption", { class: "sub" }, h("strong", {}, title), " · " + sub);
  return h("figure", {}, caption, chart(at => lines(at, drawn)), asTable(title + " over time", columns, rows));
}

// Rows are {position, ctr}; beyond the tenth they are put together.
export function positions(rows, title = "CTR by position") {
  const folded = rows.filter(row => row.position < 10).map(row => [String(row.position + 1), row.ctr]);
  for (const [name, from, to] of [["11–20", 10, 20], ["21+", 20, Infinity]]) {
    const part = summed(rows.filter(row => row.position >= from && row.position < to).map(row => row.ctr));
    if (part.of) folded.push([name, part]);
  }
  if (!folded.length) return section("positions", title, "No results shown in these days.");
  const box = chart(at => dots(at, folded.map(([name, ctr]) => [name, ctr, rateText(ctr)]), title));
  const columns = [
    ["position", row => row[0]], ["CTR", row => rateText(row[1]), "n"], ["shown", row => whole(row[1].of), "n"],
  ];
  return section("positions", title, positionsText(rows),
    h("figure", { "aria-labelledby": "positions-title" }, box, asTable(title, columns, folded)));
}

function positionsText(rows) {
  const known = position => rows.find(row => row.position === position && row.ctr.count && !isThin(row.ctr));
  const first = known(0), fifth = known(4), form = "Dots with 95% intervals.";
  if (!first || !fifth) return form;
  const times = (first.ctr.value / fifth.ctr.value).toFixed(1);
  return `The first result gets ${times} times the clicks of the fifth. ${form}`;
}
