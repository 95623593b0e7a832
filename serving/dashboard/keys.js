// Single-key shortcuts. One list drives both the dispatch and the help; a switch in the help turns all of them off.
import { address, go, state, store, stored } from "./address.js";
import { h } from "./elements.js";
import { DAY, dayOf } from "./words.js";

// How long the second key of a pair may take.
const PAIR_MS = 1500;
const STORED = "keys";

const help = document.getElementById("help"), allowed = document.getElementById("keys-on");

function to(page) {
  return () => go(address(page));
}

function shift(periods) {
  const { since, until, days } = state(), move = text => dayOf(Date.parse(text) + periods * days * DAY);
  if (move(until) <= dayOf(Date.now())) go(address(undefined, { since: move(since), until: move(until), days: null }));
}

function press(id) {
  return () => document.getElementById(id).click();
}

function focusFilter() {
  const box = document.getElementById("filter");
  if (box) box.focus();
  else document.getElementById("retriever").focus();
}

const KEYS = [
  ["?", "this help", () => help.showModal()],
  ["/", "filter a list, or choose the retriever", focusFilter],
  ["g o", "overview", to("")],
  ["g q", "low-CTR queries", to("queries")],
  ["g d", "documents ranked high and skipped", to("skipped")],
  ["g z", "zero-result queries", to("zero")],
  ["g a", "alerts", to("alerts")],
  ["g p", "pipeline", to("pipeline")],
  ["[", "the period before", () => shift(-1)],
  ["]", "the period after", () => shift(1)],
  ["c", "compare, or do not", press("compare")],
  [".", "pause, or go on", press("pause")],
  ["y", "copy the link", press("copy")],
];

let first = "", firstAt = 0;

function onKey(event) {
  if (event.key === "Shift" || event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  if (!allowed.checked || help.open || event.target.closest("input, select, textarea")) return;
  const pair = first && performance.now() - firstAt < PAIR_MS ? `${first} ${event.key}` : event.key;
  first = pair === "g" ? "g" : "";
  firstAt = performance.now();
  const found = KEYS.find(([keys]) => keys === pair);
  if (!found) return;
  event.preventDefault();
  found[2]();
}

export function listen() {
  const row = ([keys, what]) => h("tr", {}, h("th", { scope: "row" }, h("kbd", {}, keys)), h("td", {}, what));
  document.getElementById("keys").append(...KEYS.map(row));
  allowed.checked = stored(STORED) !== "off";
  allowed.addEventListener("change", () => store(STORED, allowed.checked ? "on" : "off"));
  document.addEventListener("keydown", onKey);
  document.getElementById("open-help").addEventListener("click", () => help.showModal());
}
