// Dots with whiskers: a rate with its interval for each row.
import { svg } from "./elements.js";

const LEFT = 44, RIGHT = 132, ROW = 26, FOOT = 20, LEAST = 240;

// At most six, at round numbers.
function ticks(most) {
  const step = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1].find(each => most / each <= 5) ?? 0.2;
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, i) => i * step);
}

// Draws rows of [name, rate, text, rate of before] into a box, the last as a tick if there is one. In real pixels, so
// that labels keep their size on a phone.
export function dots(box, rows, title) {
  const most = Math.max(0.01, ...rows.map(([, rate, , before]) => Math.max(rate.high ?? 0, before?.value ?? 0)));
  let drawn = 0;
  function draw() {
    const width = Math.max(LEAST, box.clientWidth), x = value => LEFT + (width - LEFT - RIGHT) * value / most;
    if (width === drawn) return;
    drawn = width;
    const height = rows.length * ROW;
    const picture = svg("svg", { width, height: height + FOOT, role: "img", "aria-label": title });
    for (const tick of ticks(most)) {
      const label = `${Number((100 * tick).toFixed(1))}%`;
      picture.append(svg("line", { x1: x(tick), x2: x(tick), y1: 0, y2: height, class: "grid" }),
        svg("text", { x: x(tick), y: height + FOOT - 5, "text-anchor": "middle", class: "axis" }, label));
    }
    rows.forEach(([name, rate, text, before], i) => {
      const y = i * ROW + ROW / 2;
      picture.append(svg("text", { x: LEFT - 10, y: y + 4, "text-anchor": "end", class: "axis" }, name));
      if (before && before.value !== null) {
        const at = x(before.value);
        picture.append(svg("line", { x1: at, x2: at, y1: y - 8, y2: y + 8, class: "then" }));
      }
      if (rate.value !== null) {
        picture.append(svg("line", { x1: x(rate.low), x2: x(rate.high), y1: y, y2: y, class: "whisker" }),
          svg("circle", { cx: x(rate.value), cy: y, r: 4, class: "dot" }));
      }
      picture.append(svg("text", { x: width - RIGHT + 12, y: y + 4, class: "value" }, text));
    });
    box.replaceChildren(picture);
  }
  draw();
  new ResizeObserver(draw).observe(box);
}
