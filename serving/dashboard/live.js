// What changes by the second: what is popular, how the pipeline stands, and whether the numbers are of now.
import { again, live, serverNow } from "./asking.js";
import { command, h, section, table } from "./elements.js";
import { documentCell } from "./problems.js";
import { clockTime, duration, moment, NONE, whole } from "./words.js";

const BEHIND = 10000;

export function popular() {
  const title = "Popular now", rows = live.body ? live.body.popular : [];
  if (!live.body) return section("popular", title, null, h("div", { class: "bar" }));
  if (!rows.length) {
    const sentence = h("p", {}, "No clicks yet. Try: ", command("clickwell simulate --rate 200"));
    return section("popular", title, null, sentence);
  }
  const sub = "By what people do now: the weight of an interaction halves within a day (setting).";
  return section("popular", title, sub, table(title, [
    ["rank", row => String(row.rank), "n"], ["document", documentCell, "name"],
    ["clicks, 24 h", row => (row.clicks === null ? NONE : whole(row.clicks)), "n"],
    ["weight", row => row.weight.toFixed(1), "n", "descending"],
  ], rows));
}

export function pipeline() {
  const body = live.body;
  if (!body) return section("pipeline", "Pipeline", null, h("div", { class: "bar" }));
  const letters = h("p", { class: "note" }, "Dead letters wait to be mended: ", command("clickwell dead-letters list"));
  const nobody = h("p", { class: "note" }, "No worker has reported lately. Start one: ", command("clickwell worker"));
  if (!body.workers) return section("pipeline", "Pipeline", null, nobody);
  return section("pipeline", "Pipeline", null, body.since_start.dead_letters ? letters : null,
    h("div", { class: "two" }, lags(body), totals(body)));
}

function lags({ lag, lake_lag: lake, freshness }) {
  const rows = [...Object.entries(lag), ...(lake === null ? [] : [["lake", lake]])];
  const standing = ([, records]) => {
    if (records && freshness.state === "stale") return h("span", { class: "bad" }, "▲ stands still");
    return records > BEHIND ? h("span", { class: "warn" }, "! behind") : h("span", { class: "good" }, "✓ caught up");
  };
  const columns = [["lane", row => row[0]], ["state", standing], ["records to apply", row => whole(row[1]), "n"]];
  return table("Lag", columns, rows);
}

function totals({ workers, since_start: told }) {
  const rows = [
    ["workers", workers], ["events applied since they started", told.applied],
    ["events a second", live.rate === null ? null : Math.round(live.rate)], ["duplicates left out", told.duplicates],
    ["too late for the window", told.late], ["dead letters", told.dead_letters], ["rewinds", told.rewinds],
    ["lost to retention", told.lost],
  ];
  const value = row => (row[1] === null ? NONE : whole(row[1]));
  return table("Since the workers started", [["what", row => row[0]], ["count", value, "n"]], rows);
}

// How fresh it all is: a word for the style, what the bar says, and what the banner says if there is one.
export function standing() {
  if (live.paused !== null) return { word: "paused", bar: `paused ${clockTime(live.paused)} UTC` };
  if (live.failures > 1) return lost();
  if (!live.body) return { word: "waiting", bar: "" };
  const { state, as_of_ms: asOf, why, fix } = live.body.freshness;
  if (state === "live") return { word: state, bar: `live · ${moment(serverNow())} UTC` };
  if (state === "absent") return { word: state, bar: "nothing counted yet" };
  const age = duration(serverNow() - asOf);
  if (state === "delayed") return { word: state, bar: `! delayed by ${age}` };
  const text = [`Data stop at ${moment(asOf)} UTC (${age} ago). ${why} Try: `, command(fix)];
  return { word: state, bar: `as of ${moment(asOf)} UTC`, text };
}

function lost() {
  const age = duration(serverNow() - live.lostAt);
  const since = live.body ? `Data stop at ${moment(live.lostAt)} UTC (${age} ago). ` : "";
  const next = Math.max(0, Math.ceil((live.nextAt - Date.now()) / 1000));
  const text = [since + live.error + " See whether it runs: ", command("clickwell status"), `. Next try in ${next} s.`];
  return { word: "offline", bar: live.body ? `as of ${moment(live.lostAt)} UTC` : "no answer", text };
}

export function banner() {
  const retry = h("button", { type: "button", onclick: again }, "Retry now");
  return h("aside", { id: "standing", class: "banner", "aria-label": "How fresh this is" }, h("p", {}), retry);
}
