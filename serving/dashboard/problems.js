// Lists of what to look at: queries and documents that chance does not explain, and what cannot be seen.
import { address, state } from "./address.js";
import { h, link, named, section, table } from "./elements.js";
import { isThin, moment, NONE, percent, placeText, queryText, rateText, whole } from "./words.js";

const SHOWN = 10;

// The filter of a page with a whole list: in the address, and not drawn anew while somebody types.
export function filterBox() {
  const typed = event => {
    history.replaceState(null, "", address(undefined, { f: event.target.value || null }));
    document.dispatchEvent(new Event("answered"));
  };
  const box = h("input", { type: "search", id: "filter", value: state().filter, oninput: typed });
  return h("p", { id: "filters" }, h("label", {}, "Filter ", box));
}

function findings({ id, title, found, sub, empty, columns, name }, all) {
  if (!found.found) return section(id, title, null, h("p", {}, empty));
  const filter = state().filter.toLowerCase();
  const rows = all ? found.rows.filter(row => name(row).toLowerCase().includes(filter)) : found.rows.slice(0, SHOWN);
  const worst = all && found.found > found.rows.length ? ` The worst ${found.rows.length} are here.` : "";
  return section(id, title, sub + worst,
    rows.length ? table(title, columns, rows) : h("p", {}, "None of these has the filter's text."),
    !all && found.found > SHOWN ? h("p", { class: "more" }, link(address(id), `all ${whole(found.found)}`)) : null);
}

export function queryCell(row) {
  return named(address("query", { q: row.query }), queryText(row.query));
}

export function documentCell(row) {
  return named(address("document", { id: row.feature_id }), row.feature_id);
}

export function queries({ low_ctr_queries: found }, all) {
  return findings({
    id: "queries", title: "Low-CTR queries", found, name: row => row.query,
    sub: `${whole(found.found)} of ${whole(found.tested)} queries with enough evidence are below 5% with 95%`
      + " confidence, and below what their positions lead to expect.",
    empty: `No query is below 5% with confidence. ${whole(found.too_little_evidence)} have too little evidence.`,
    columns: [
      ["query", queryCell, "name"], ["searches", row => whole(row.searches), "n minor"],
      ["CTR", row => rateText(row.ctr), "n"], ["expected", row => percent(row.expected), "n minor"],
      ["clicks lost", row => whole(Math.round(row.clicks_lost)), "n", "descending"],
      ["first click at", row => placeText(row.first_click_position), "n minor"],
    ],
  }, all);
}

export function skipped({ skipped_documents: found }, all) {
  return findings({
    id: "skipped", title: "Ranked high, skipped", found, name: row => row.feature_id,
    sub: `${whole(found.found)} of ${whole(found.tested)} documents with enough evidence at the top 3 are passed over,`
      + " with 95% confidence.",
    empty: "No document at the top is passed over with confidence."
      + ` ${whole(found.too_little_evidence)} have too little evidence.`,
    columns: [
      ["document", documentCell, "name"], ["at top 3", row => whole(row.shown_at_top), "n minor"],
      ["skip rate", row => rateText(row.skip_rate), "n"], ["expected", row => percent(row.expected), "n minor"],
      ["skips above expected", row => whole(Math.round(row.skips_above_expected)), "n", "descending"],
    ],
  }, all);
}

export function zero({ zero_result_queries: found, numbers }, all) {
  const counts = ({ count, of }) => `${whole(count)} of ${whole(of)}`;
  const next = row => h("bdi", {}, `${queryText(row.next_query)} (${whole(row.next_searches)})`);
  return findings({
    id: "zero", title: "Zero-result queries", found, name: row => row.query,
    sub: `${whole(found.found)} quer${found.found === 1 ? "y finds" : "ies find"} nothing, with 95% confidence.`,
    empty: `${whole(numbers.searches)} searches checked, no query finds nothing with confidence.`
      + " If that looks wrong: send searches with an empty results list.",
    columns: [
      ["query", queryCell, "name"],
      ["zero results", row => (isThin(row.zero_results) ? counts(row.zero_results) : rateText(row.zero_results)), "n"],
      ["last seen", row => moment(row.last_at), "n minor"],
      ["asked next", row => (row.next_query === null ? NONE : next(row)), "name minor"],
      ["searches", row => whole(row.zero_results.of), "n", "descending"],
    ],
  }, all);
}

export function blind({ blind_spots: b }) {
  if (!b.deep_documents && !b.unseen_documents && !b.thin_queries) {
    return section("blind", "Blind spots", "Nothing is hidden at this evidence level.");
  }
  const share = b.thin_searches === null ? "" : `, ${percent(b.thin_searches, 0)} of searches`;
  const rows = [
    ["Documents clicked deep in the list that hardly ever stood at the top", whole(b.deep_documents)],
    ["Documents clicked elsewhere and never shown here", whole(b.unseen_documents)],
    ["Queries with too little evidence for a CTR", whole(b.thin_queries) + share],
  ];
  return section("blind", "Blind spots", "What these numbers cannot see, or what is never shown.",
    table("Blind spots", [["what", row => row[0]], ["how many", row => row[1], "n"]], rows));
}
