// One alert: the hours it rests on, what stood where then and now, and what would close it.
import { address } from "./address.js";
import { dots } from "./dots.js";
import { asTable, chart, h, link, section, table } from "./elements.js";
import { lines } from "./lines.js";
import { DAY, dayOf, moment, rateText, sentenceText, whole } from "./words.js";

const SHOWN = 10;

export function alertTitle({ alert }) {
  const sign = alert.until_ms === null ? h("span", { class: "bad" }, "▲ ") : h("span", { class: "good" }, "✓ ");
  return [sign, sentenceText(alert.sentence)];
}

export function alertText({ alert, first_ms: first, end_ms: end }) {
  const since = moment(alert.since_ms), until = alert.until_ms === null ? null : moment(alert.until_ms);
  return [
    `${until ? `Was open from ${since} to ${until}` : `Open since ${since}`} UTC, retriever `,
    h("bdi", {}, alert.retriever_id || "(none)"),
    `. Compared: ${moment(first)} to ${moment(end)} with the same hours of up to four weeks before.`
      + ` Evidence: ${whole(alert.evidence)} observations.`,
  ];
}

export function alertHours({ alert, hours, measure }) {
  const times = hours.map(one => one.hour), now = hours.map(one => one.now), before = hours.map(one => one.before);
  const marks = [{ at: alert.since_ms, text: "opened" }];
  if (alert.until_ms !== null) marks.push({ at: alert.until_ms, text: "closed" });
  const describe = i => `${moment(times[i])} UTC: ${rateText(now[i])}, before ${rateText(before[i])}`;
  const draw = at => lines(at, { times, now, before, marks, label: measure, describe });
  const columns = [
    ["hour, UTC", row => moment(row.hour)], [measure, row => rateText(row.now), "n"],
    ["weeks before", row => rateText(row.before), "n"], ["searches", row => whole(row.searches), "n minor"],
  ];
  const what = measure[0].toUpperCase() + measure.slice(1);
  const sub = `${what}, with 95% interval; dashed: the same hours of the weeks before.`;
  return section("hours", "Hour by hour", sub,
    h("figure", { "aria-labelledby": "hours-title" }, chart(draw), asTable("Hours of the alert", columns, hours)));
}

export function alertPositions({ positions: rows }) {
  const name = row => String(row.position + 1), title = "CTR by position in the hours compared";
  const drawn = rows.slice(0, SHOWN).map(row => [name(row), row.now, rateText(row.now), row.before]);
  const columns = [
    ["position", name], ["CTR", row => rateText(row.now), "n minor"], ["before", row => rateText(row.before), "n"],
    ["shown", row => whole(row.now.of), "n minor"], ["shown before", row => whole(row.before.of), "n minor"],
  ];
  const sub = "In the hours compared; ticks: the weeks before. Where lists became longer or shorter, the page has"
    + " changed, which alone is no loss.";
  const figure = h("figure", { "aria-labelledby": "places-title" }, chart(at => dots(at, drawn, title)));
  const both = table("By position, then and now", columns, rows);
  return section("places", "By position", sub, h("div", { class: "two" }, figure, both));
}

export function alertEnd({ alert, opens, closes, first_ms: first, end_ms: end }) {
  const stopped = "It closes when an hour has searches and clicks again.";
  const change = `It opened because the change exceeds 5% by more than ${opens} standard errors, and closes when it`
    + ` exceeds it by less than ${closes}.`;
  const week = { since: dayOf(first - 6 * DAY), until: dayOf(end - 1), days: null };
  const around = address("", { r: alert.retriever_id, ...week });
  return section("end", "What would close it", null, h("p", {}, alert.rule === "events_stopped" ? stopped : change),
    h("p", { class: "more" }, link(around, "The overview of that week")));
}
