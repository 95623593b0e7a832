// The bar: retriever, days, comparison, link, pause, help; and the theme.
import { address, go, state, store, stored } from "./address.js";
import { chosen, live, setPaused, signals } from "./asking.js";
import { h } from "./elements.js";
import { redrawCharts } from "./lines.js";

const COPIED_MS = 2000;
const [retriever, days, since, until, compare, copy, pause, filters] = [
  "retriever", "days", "since", "until", "compare", "copy", "pause", "open-filters",
].map(id => document.getElementById(id));

// Shows what the address says.
export function showControls(now) {
  const name = chosen(now), known = signals.body ? signals.body.retrievers : [];
  const names = new Set(name === null ? known : [...known, name]);
  const wanted = names.size ? [...names] : [null];
  const text = one => (one === null ? "no retriever yet" : one || "(no name)");
  if ([...retriever.options].map(one => one.text).join("\n") !== wanted.map(text).join("\n")) {
    retriever.replaceChildren(...wanted.map(one => h("option", { value: one ?? "" }, text(one))));
  }
  retriever.disabled = !names.size;
  if (name !== null) retriever.value = name;
  const isUsual = !now.fixed && [...days.options].some(one => one.value === String(now.days));
  days.value = isUsual ? String(now.days) : "custom";
  for (const [input, value] of [[since, now.since], [until, now.until]]) {
    input.closest("label").hidden = isUsual;
    if (document.activeElement !== input) input.value = value;
  }
  compare.checked = now.compare;
  pause.setAttribute("aria-pressed", String(live.paused !== null));
  pause.textContent = live.paused === null ? "Pause" : "Go on";
}

async function copyLink() {
  const now = state(), name = chosen(now);
  // With days that stay what they are, so that others see the same.
  const fixed = { since: now.since, until: now.until, days: null, ...(name === null ? {} : { r: name }) };
  const to = new URL(address(undefined, fixed), location.href).href;
  try {
    await navigator.clipboard.writeText(to);
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy link"; }, COPIED_MS);
  } catch {
    prompt("Link", to);
  }
}

function setTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  for (const radio of document.querySelectorAll("[name=theme]")) radio.checked = radio.value === name;
  redrawCharts();
}

function chooseDays() {
  const now = state();
  if (days.value === "custom") go(address(undefined, { since: now.since, until: now.until, days: null }));
  else go(address(undefined, { days: days.value, since: null, until: null }));
}

export function listen() {
  retriever.addEventListener("change", () => go(address(undefined, { r: retriever.value })));
  days.addEventListener("change", chooseDays);
  for (const input of [since, until]) {
    input.addEventListener("change", () => {
      if (input.value) go(address(undefined, { since: since.value, until: until.value, days: null }));
    });
  }
  compare.addEventListener("change", () => go(address(undefined, { cmp: compare.checked ? null : "off" })));
  copy.addEventListener("click", copyLink);
  pause.addEventListener("click", () => setPaused(live.paused === null));
  filters.addEventListener("click", () => { filters.ariaExpanded = String(filters.ariaExpanded !== "true"); });
  document.getElementById("frame").addEventListener("submit", event => event.preventDefault());
  document.getElementById("themes").addEventListener("change", event => {
    store("theme", event.target.value);
    setTheme(event.target.value);
  });
  setTheme(stored("theme") || "auto");
}
