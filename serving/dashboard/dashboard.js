// The page: which sections there are in which state, and what the bar says of them.
import { address, state, TITLES } from "./address.js";
import { alertEnd, alertHours, alertPositions, alertText, alertTitle } from "./alert.js";
import { access, again, alert, alerts, chosen, live, refresh, signals, start, subject, trend } from "./asking.js";
import { listen as listenToControls, showControls } from "./controls.js";
import { command, h, link } from "./elements.js";
import { listen as listenToKeys } from "./keys.js";
import { banner, pipeline, popular, standing } from "./live.js";
import { alertList, positions, sixNumbers, trends } from "./overview.js";
import { piece, show } from "./pieces.js";
import { blind, filterBox, queries, skipped, zero } from "./problems.js";
import { boost, byDay, byPosition, inTerminal, isSubject, pairs, subjectText, subjectTitle } from "./subjects.js";
import { whole } from "./words.js";

const [main, bar, said] = ["main", "fresh", "said"].map(id => document.getElementById(id));

// ---- sections

// A section whose numbers come from a part: a bar while it is being read, what went wrong if there is nothing to show.
function from(part, id, title, make, more = "") {
  return piece(id, [part.version, part.body !== null, part.error, more], () => {
    if (part.body) return make(part.body);
    const retry = h("button", { type: "button", onclick: again }, "Retry");
    const failed = h("p", { class: "note" }, h("span", { class: "bad" }, "▲ Not read: "), part.error + " ", retry);
    const heading = h("h2", { id: id + "-title" }, title);
    const inside = part.error ? failed : h("div", { class: "bar" });
    return h("section", { class: "unread", "aria-labelledby": id + "-title" }, heading, inside);
  });
}

function ofSignals(id, make, title = TITLES[id]) {
  const { filter, page } = state();
  return from(signals, id, title, body => make(body.signals, page === id), filter);
}

function ofLive(id, make) {
  return piece(id, live.version, make);
}

function trendPiece() {
  const found = alerts.body ? alerts.body.alerts : [];
  const make = body => trends(signals.body.signals, body, found);
  return from(signals.body ? trend : signals, "trend", "CTR and skips", make, [signals.version, alerts.version]);
}

function overview() {
  const first = from(alerts, "alerts", "Alerts", body => alertList(body, false));
  const popularNow = ofLive("popular", popular), last = ofLive("pipeline", pipeline);
  // Said once, not in each of the seven sections.
  if (signals.error && !signals.body) return [first, from(signals, "now", "Numbers"), popularNow, last];
  return [
    first, ofSignals("now", sixNumbers, "Six numbers"), trendPiece(),
    ofSignals("positions", all => positions(all.ctr_by_position), "CTR by position"), ofSignals("queries", queries),
    ofSignals("skipped", skipped), ofSignals("zero", zero), popularNow, ofSignals("blind", blind), last,
  ];
}

function list(id, make) {
  return () => [piece("filters", "", filterBox), ofSignals(id, make)];
}

function ofSubject(...more) {
  const common = [["by-day", "By day", byDay], ["positions", "CTR by position", byPosition]];
  return [...common, ...more].map(each => from(subject, ...each));
}

const PAGES = {
  "": overview,
  alerts: () => [from(alerts, "alerts", "Alerts", body => alertList(body, true))],
  alert: () => [
    from(alert, "hours", "Hour by hour", alertHours), from(alert, "places", "By position", alertPositions),
    from(alert, "end", "What would close it", alertEnd),
  ],
  queries: list("queries", queries), skipped: list("skipped", skipped), zero: list("zero", zero),
  query: () => [...ofSubject(["pairs", "Documents shown", pairs]), piece("terminal", "", inTerminal)],
  document: () => ofSubject(["pairs", "Queries that show it", pairs], ["boost", "Boost now", boost]),
  popular: () => [ofLive("popular", popular)],
  blind: () => [ofSignals("blind", blind)],
  pipeline: () => [ofLive("pipeline", pipeline)],
};
// They say something even where there are no searches.
const WITHOUT_SEARCHES = ["alerts", "alert", "popular", "pipeline"];

// ---- around the sections

function heading(now) {
  if (isSubject(now)) return h("h1", {}, subjectTitle(now));
  return h("h1", {}, now.page === "alert" && alert.body ? alertTitle(alert.body) : TITLES[now.page]);
}

function evidence(now) {
  return h("p", { class: "evidence" }, evidenceText(now));
}

function evidenceText(now) {
  const days = `${now.since} to ${now.until}, UTC, both included`;
  if (now.page === "alert") return alert.body ? alertText(alert.body) : "Reading the hours …";
  if (isSubject(now)) return `${days}. ${subject.body ? subjectText(subject.body) : "Reading …"}`;
  if (!signals.body && !signals.error) return `Reading ${days} …`;
  if (!signals.body?.signals) return days + ".";
  const { numbers } = signals.body.signals;
  return `${days}; ${whole(numbers.ctr.of)} results shown in ${whole(numbers.searches)} searches.`;
}

function misunderstood(now) {
  const bad = h("bdi", {}, now.bad.join(", "));
  return h("p", { class: "note" }, "The address says ", bad, ", which makes no sense and is left out.");
}

function empty(now) {
  const some = `No searches from ${now.since} to ${now.until}. Choose other days, or send some:`;
  const calls = ["Emitter().emit_search(...)", "POST /v1/retrievers/searches", "clickwell publish FILE"];
  const ways = calls.map(command).flatMap((call, i) => [["", ", ", " or "][i], call]);
  return h("section", { "aria-label": "What to do first" },
    h("p", {}, signals.body.lake ? some : "No searches yet. Send the first ones:"),
    h("p", {}, command("clickwell simulate --rate 200")),
    h("p", { class: "sub" }, "They appear here by themselves, seconds later. From a service of yours: ", ways, "."));
}

function askForKey() {
  const use = event => {
    event.preventDefault();
    access.use(event.target.elements.key.value);
  };
  const box = h("input", { type: "password", name: "key", autocomplete: "off" });
  const make = command("clickwell keys create --scope read");
  return h("form", { onsubmit: use }, h("p", {}, "This API asks for a key."),
    h("p", {}, h("label", {}, "Key with scope read ", box), " ", h("button", {}, "Use it")),
    h("p", { class: "sub" }, "Make one: ", make, ". It is kept until this page is closed."));
}

// ---- the page

function pageState({ page }) {
  if (access.locked) return "locked";
  if (signals.body && !signals.body.signals?.numbers.searches && !WITHOUT_SEARCHES.includes(page)) return "empty";
  const asked = [signals, trend, alerts, subject, alert].filter(part => part.asked !== null);
  if (asked.some(part => part.error)) return "error";
  const waits = asked.some(part => part.body === null) || (page === "" && trend.asked === null);
  return waits ? "loading" : "ready";
}

function pieces(now, name) {
  const version = [signals.version, signals.error, subject.version, alert.version];
  const first = [piece("title", version, () => heading(now))];
  if (now.bad.length) first.push(piece("bad", now.bad, () => misunderstood(now)));
  if (name === "locked") return [...first, piece("locked", "", askForKey)];
  first.push(piece("evidence", version, () => evidence(now)));
  if (name === "empty") {
    first.push(piece("empty", version, () => empty(now)));
    return [...first, ofLive("popular", popular), ofLive("pipeline", pipeline)];
  }
  const back = piece("back", "", () => h("p", { class: "more" }, link(address(""), "Back to the overview")));
  return [...first, ...PAGES[now.page](), ...(now.page ? [back] : [])];
}

function title(now) {
  const open = live.body?.alerts_open ? `(${live.body.alerts_open}) ` : "", whose = chosen() ? ` · ${chosen()}` : "";
  const what = isSubject(now) ? (now.q || now.id).slice(0, 60) + " — " : "";
  return `${open}${what}${TITLES[now.page]}${whose} · clickwell`;
}

const SAID = { offline: "The API does not answer.", stale: "The data have stopped.", live: "The data are live." };
let word = "waiting";

// The bar and the banner at once; those who listen are told once, and not what every page begins with.
function showStanding() {
  const now = standing();
  if (bar.textContent !== now.bar) bar.textContent = now.bar;
  bar.className = now.word === "live" ? "" : "warn";
  if (!now.text || access.locked) document.getElementById("standing")?.remove();
  else {
    if (!document.getElementById("standing")) main.before(banner());
    document.querySelector("#standing p").replaceChildren(h("strong", { class: "warn" }, "! "), ...now.text);
  }
  if (now.word !== word && SAID[now.word] && word !== "waiting") said.textContent = SAID[now.word];
  word = now.word;
  document.documentElement.dataset.fresh = now.word;
}

function render() {
  const now = state(), name = pageState(now);
  showControls(now);
  document.title = title(now);
  main.dataset.state = name;
  show(main, pieces(now, name));
  showStanding();
}

function arrive() {
  render();
  main.focus();
  refresh();
}

listenToControls();
listenToKeys();
document.addEventListener("answered", render);
document.addEventListener("arrived", arrive);
addEventListener("popstate", arrive);
render();
start();
