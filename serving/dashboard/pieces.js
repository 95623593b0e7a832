// The pieces of the page, of which only those are drawn anew that say something new.
import { state } from "./address.js";
import { chosen } from "./asking.js";

// A piece is made anew when its version is another one, but not while somebody is in it. Pieces of another place (page,
// retriever, days) are always made anew.
export function piece(id, version, make) {
  const { page, since, until, compare, q, id: subject } = state();
  const place = JSON.stringify([page, chosen(), since, until, compare, q, subject]);
  return { id, place, version: String(version), make };
}

// Puts the pieces into a box, in order. What is as it was stays, with its focus, its open tables and its place. Who used
// what is gone is left in its successor.
export function show(box, wanted) {
  let next = null;
  const old = new Map([...box.children].map(element => [element.id, element]));
  const elements = wanted.map(({ id, place, version, make }) => {
    const before = old.get(id);
    if (before && before.place === place && (before.version === version || isUsed(before))) return before;
    const element = Object.assign(make(), { id, place, version });
    if (before) keepOpen(before, element);
    if (before && before.contains(document.activeElement)) next = element;
    return element;
  });
  for (const element of [...box.children]) if (!elements.includes(element)) remove(element);
  elements.forEach((element, i) => {
    if (box.children[i] !== element) box.insertBefore(element, box.children[i] ?? null);
  });
  if (next) {
    next.tabIndex = -1;
    next.focus();
  }
}

// Rows of what is live keep their place under the pointer. What could not be read has nothing to be used.
function isUsed(element) {
  if (element.matches(".unread")) return false;
  return element.contains(document.activeElement) || element.matches("#popular:hover, #pipeline:hover");
}

function keepOpen(before, after) {
  const open = [...before.querySelectorAll("details")].map(one => one.open);
  after.querySelectorAll("details").forEach((one, i) => { one.open = open[i] ?? false; });
}

function remove(element) {
  for (const chart of element.querySelectorAll(".chart")) if (chart.stop) chart.stop();
  element.remove();
}
