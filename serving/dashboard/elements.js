// Elements. Queries and ids are hostile text: they only ever become text nodes.
import { go } from "./address.js";

export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter(child => child !== null));
  return element;
}

export function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function link(to, ...text) {
  const follow = event => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go(to);
  };
  return h("a", { href: to, onclick: follow }, ...text);
}

export function named(to, text) {
  return link(to, h("bdi", {}, text));
}

export function command(text) {
  return h("code", {}, text);
}

export function section(id, title, sub, ...children) {
  const heading = h("h2", { id: id + "-title" }, title);
  const below = sub ? h("p", { class: "sub" }, sub) : null;
  return h("section", { id, "aria-labelledby": id + "-title" }, heading, below, ...children);
}

// Columns are [head, cell of a row, kind, sort]; kinds: "n" numbers, "name" hostile text, "minor" not on a phone.
export function table(label, columns, rows) {
  const headOf = ([text, , kind = "", sort = null]) => h("th", { scope: "col", class: kind, "aria-sort": sort }, text);
  const cells = row => columns.map(([, cell, kind = ""]) => h("td", { class: kind }, cell(row)));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label + ", table" },
    h("table", {}, h("caption", { class: "hidden" }, label), h("thead", {}, h("tr", {}, columns.map(headOf))),
      h("tbody", {}, rows.map(row => h("tr", {}, cells(row))))));
}

export function asTable(label, columns, rows) {
  return h("details", {}, h("summary", {}, "Show as table"), table(label, columns, rows));
}

// A box for a chart, which can only be drawn where it stands: it has its width from there.
export function chart(draw) {
  const box = h("div", { class: "chart" });
  queueMicrotask(() => { if (box.isConnected) draw(box); });
  return box;
}
