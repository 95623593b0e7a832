// What is shown stands in the address, so that it can be sent to somebody and undone by Back; taste is in the browser.
import { DAY, dayOf } from "./words.js";

export const TITLES = {
  "": "Relevance", alerts: "Alerts", alert: "Alert", queries: "Low-CTR queries", query: "Query",
  skipped: "Ranked high, skipped", document: "Document", zero: "Zero-result queries", popular: "Popular now",
  blind: "Blind spots", pipeline: "Pipeline",
};
const DAYS = 7, MOST_DAYS = 366;

// What the address says: the page, the retriever, the days (the last ones unless they are named), filter and subject.
// What it says wrongly is named in `bad` and taken as usual.
export function state() {
  const query = new URLSearchParams(location.search), bad = [];
  const valid = (name, test, usual) => {
    const value = query.get(name);
    if (value === null || test(value)) return value ?? usual;
    bad.push(`${name}=${value}`);
    return usual;
  };
  const isCount = text => Number.isInteger(Number(text)) && Number(text) >= 1 && Number(text) <= MOST_DAYS;
  const isDay = text => /^\d{4}-\d\d-\d\d$/.test(text) && !Number.isNaN(Date.parse(text));
  const days = Number(valid("days", isCount, DAYS));
  const until = valid("until", isDay, dayOf(Date.now()));
  let since = valid("since", isDay, dayOf(Date.parse(until) - (days - 1) * DAY));
  if (since > until) {
    bad.push(`since=${since}`);
    since = until;
  }
  return {
    page: location.pathname.replace(/^\/dashboard\/?/, ""), retriever: query.get("r"), since, until,
    days: (Date.parse(until) - Date.parse(since)) / DAY + 1, fixed: query.has("since") || query.has("until"),
    compare: query.get("cmp") !== "off", q: query.get("q") ?? "", id: query.get("id") ?? "",
    filter: query.get("f") ?? "", bad,
  };
}

// The address of a page, of this one if undefined, with changes; null takes a name away. What is not ours survives.
export function address(page, changes = {}) {
  const query = new URLSearchParams(location.search);
  if (page !== undefined) for (const name of ["f", "q", "id"]) query.delete(name);
  for (const [name, value] of Object.entries(changes)) value === null ? query.delete(name) : query.set(name, value);
  const path = page === undefined ? location.pathname : page ? "/dashboard/" + page : "/dashboard";
  return path + (query.size ? "?" + query : "");
}

export function go(to) {
  history.pushState(null, "", to);
  document.dispatchEvent(new Event("arrived"));
}

// A browser may forbid its storage; then a choice lasts as long as the page.
export function stored(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

export function store(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch { /* see above */ }
}
