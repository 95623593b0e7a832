// Lines with their intervals over time, drawn by uPlot, which is a script of its own before this one.
/* global uPlot */
import { h } from "./elements.js";
import { DAY, dayName, hourName } from "./words.js";

const HEIGHT = 200, MARKS = 18, LEAST = 240, LABEL = 110, FONT = "12px system-ui, sans-serif";
// Also whole days: without them the labels vanish on a phone.
const STEPS = [1, 3, 6, 12, 24, 48, 72, 168, 336, 672].map(hours => hours * 3600);

// What a custom property is in the present theme, as the canvas wants it: the property itself still holds both.
function colour(name) {
  const probe = h("i", {});
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

// `least` is the time between two points, in seconds: there is nothing to name between them.
function axes(least) {
  const rule = { stroke: colour("--grid"), width: 1 };
  const common = { stroke: colour("--muted"), font: FONT, grid: rule, ticks: { ...rule, size: 4 } };
  const time = (_, ticks) => ticks.map(at => ((at * 1000) % DAY ? hourName : dayName)(at * 1000));
  const share = (_, ticks) => ticks.map(value => Number((100 * value).toFixed(2)) + "%");
  const steps = STEPS.filter(step => step >= least);
  return [{ ...common, space: 60, incrs: steps, values: time }, { ...common, size: 52, space: 36, values: share }];
}

// Marks that are less than a label apart stand under one name.
function grouped(plot, marks) {
  const found = [];
  for (const { at, text } of marks) {
    const x = plot.valToPos(at / 1000, "x", true), last = found.at(-1);
    if (last && x - last.xs.at(-1) < LABEL * devicePixelRatio) last.xs.push(x);
    else found.push({ xs: [x], text });
  }
  return found;
}

// Vertical rules with their names above, and a ring around the point of the bucket that still runs.
function notes(plot, marks, running, ink) {
  const { ctx, bbox } = plot, scale = devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = ink;
  ctx.setLineDash([]);
  ctx.font = `${12 * scale}px system-ui, sans-serif`;
  for (const { xs, text } of grouped(plot, marks)) {
    for (const x of xs) {
      ctx.beginPath();
      ctx.moveTo(x, bbox.top - 4 * scale);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    const isRight = xs[0] > bbox.left + bbox.width * 0.6;
    ctx.textAlign = isRight ? "right" : "left";
    const more = xs.length > 1 ? ` +${xs.length - 1}` : "";
    ctx.fillText(text.slice(0, 28) + more, isRight ? xs.at(-1) : xs[0], bbox.top - 6 * scale);
  }
  if (running && running.value !== null) {
    ctx.beginPath();
    ctx.arc(plot.valToPos(running.at / 1000, "x", true), plot.valToPos(running.value, "y", true), 5 * scale, 0, 7);
    ctx.stroke();
  }
  ctx.restore();
}

// Draws rates over time into a box. `now` and `before` have a rate, or null, for each time; gaps stay gaps.
// `marks` are {at, text}; `running` is the index of a bucket that has not ended; `describe` says what is at an index.
export function lines(box, { times, now, before, marks = [], running = -1, label, token = "--c1", describe }) {
  const column = (rates, key) => rates.map(one => (one ? one[key] : null));
  const rates = ["value", "low", "high"].map(key => column(now, key));
  const data = [times.map(ms => ms / 1000), ...rates, column(before, "value")];
  const inside = marks.filter(mark => mark.at >= times[0] && mark.at <= times.at(-1));
  const reading = h("p", { class: "reading", role: "status" });
  let plot = null, at = times.length - 1;

  function draw() {
    if (plot) plot.destroy();
    const ink = colour(token), muted = colour("--muted"), edge = { stroke: ink, width: 0.75, points: { show: false } };
    const few = now.filter(one => one && one.value !== null).length < 50;
    const last = running >= 0 && now[running] ? { at: times[running], value: now[running].value } : null;
    plot = new uPlot({
      width: Math.max(LEAST, box.clientWidth), height: HEIGHT,
      tzDate: seconds => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
      padding: [inside.length ? MARKS : 6, 24, 0, 0], legend: { show: false },
      cursor: { sync: { key: "time" }, points: { size: 6 }, drag: { x: false, y: false } },
      scales: { y: { range: (_, __, most) => [0, most > 0 ? most * 1.05 : 1] } },
      axes: axes(data[0][1] - data[0][0] || 0),
      series: [{}, { stroke: ink, width: 2, spanGaps: false, points: { show: few, size: 5 } }, edge, edge,
        { stroke: muted, width: 1.5, dash: [6, 3], points: { show: false } }],
      bands: [{ series: [3, 2], fill: ink.replace("rgb(", "rgba(").replace(")", ", 0.18)") }],
      hooks: {
        draw: [u => notes(u, inside, last, muted)],
        setCursor: [({ cursor }) => {
          if (cursor.idx != null && (cursor.event || document.activeElement === box)) tell(cursor.idx);
        }],
      },
    }, data, box);
  }

  function tell(index) {
    at = index;
    reading.textContent = describe(index);
  }

  function onKey(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    tell(Math.min(times.length - 1, Math.max(0, at + step)));
    plot.setCursor({ left: plot.valToPos(times[at] / 1000, "x"), top: 0 });
  }

  box.tabIndex = 0;
  box.setAttribute("role", "application");
  box.setAttribute("aria-roledescription", "chart");
  box.setAttribute("aria-label", `${label}, ${times.length} points. Arrow keys read the values.`);
  box.addEventListener("keydown", onKey);
  // Above the chart: below it a finger would hide it.
  box.before(reading);
  draw();
  const sized = new ResizeObserver(() => {
    if (Math.abs(plot.width - box.clientWidth) > 1) plot.setSize({ width: box.clientWidth, height: HEIGHT });
  });
  sized.observe(box);
  box.redraw = draw;
  box.stop = () => { sized.disconnect(); plot.destroy(); };
}

// A canvas does not follow the theme by itself.
export function redrawCharts() {
  for (const box of document.querySelectorAll(".chart")) if (box.redraw) box.redraw();
}
for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)"]) {
  matchMedia(query).addEventListener("change", redrawCharts);
}
