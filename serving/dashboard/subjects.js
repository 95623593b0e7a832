// Where a list leads to: one query or one document in its numbers.
import { state } from "./address.js";
import { chosen } from "./asking.js";
import { asTable, chart, command, h, section, table } from "./elements.js";
import { lines } from "./lines.js";
import { positions } from "./overview.js";
import { documentCell, queryCell } from "./problems.js";
import { DAY, dayOf, queryText, rate, rateText, summed, whole } from "./words.js";

export function isSubject({ page }) {
  return page === "query" || page === "document";
}

export function subjectTitle({ page, q, id }) {
  return page === "query" ? ["Query ", h("bdi", {}, queryText(q))] : ["Document ", h("bdi", {}, id)];
}

export function subjectText(details) {
  const all = summed(details.positions.map(([, ctr]) => ctr));
  if (!all.of) return "Nothing of it was shown in these days.";
  return `Clicked ${whole(all.count)} times of ${whole(all.of)} shown: CTR ${rateText(all)}.`;
}

export function boost({ boost: reason }) {
  return section("boost", "Boost now", "What a reranker reads from Redis.", h("p", {}, `Counted for it: ${reason}.`));
}

export function byDay({ days }) {
  const { since, until } = state(), of = new Map(days.map(one => [one.day, one])), times = [];
  for (let at = Date.parse(since); at <= Date.parse(until); at += DAY) times.push(at);
  const now = times.map(at => of.get(dayOf(at))?.ctr ?? rate(0, 0)), none = times.map(() => null);
  const describe = i => `${dayOf(times[i])}: ${rateText(now[i])}`;
  const draw = at => lines(at, { times, now, before: none, label: "CTR by day", describe });
  const columns = [
    ["day", row => row.day], ["searches", row => whole(row.searches), "n"], ["CTR", row => rateText(row.ctr), "n"],
  ];
  const figure = h("figure", { "aria-labelledby": "by-day-title" }, times.length > 1 ? chart(draw) : null,
    asTable("CTR by day", columns, days));
  return section("by-day", "By day", "CTR with 95% interval; days in UTC.", figure);
}

export function byPosition(details) {
  return positions(details.positions.map(([position, ctr]) => ({ position, ctr })));
}

export function pairs(details) {
  const ofQuery = state().page === "query", title = ofQuery ? "Documents shown" : "Queries that show it";
  const columns = [
    ofQuery ? ["document", documentCell, "name"] : ["query", queryCell, "name"],
    ["mean position", row => (row.position + 1).toFixed(1), "n minor"], ["CTR", row => rateText(row.ctr), "n"],
    ["skipped", row => rateText(row.skip_rate), "n minor"], ["shown", row => whole(row.ctr.of), "n", "descending"],
  ];
  const none = h("p", {}, "None in these days.");
  return section("pairs", title, null, details.pairs.length ? table(title, columns, details.pairs) : none);
}

export function inTerminal() {
  const { since, until } = state(), name = chosen() || "NAME";
  const text = `clickwell signals --retriever ${name} --since ${since} --until ${until}`;
  return h("p", { id: "terminal" }, "All of the retriever in the terminal: ", command(text));
}
