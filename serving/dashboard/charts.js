// Charts: two forms, a line with its interval over time (uPlot) and dots with whiskers by position (SVG).
"use strict";

const Z = 1.959964;

// Wilson's 95 % interval of count out of n (Wilson, JASA 1927); null without evidence, which is not 0.
function wilson(count, n) {
  if (!n) return { value: null, low: null, high: null };
  const p = count / n, z2 = Z * Z, middle = p + z2 / (2 * n), spread = Z * Math.sqrt((p * (1 - p) + z2 / (4 * n)) / n);
  return { value: p, low: Math.max(0, (middle - spread) / (1 + z2 / n)), high: Math.min(1, (middle + spread) / (1 + z2 / n)) };
}

// What a custom property is in the present theme: the property itself still holds both.
function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Draws rates over time with their intervals; gaps stay gaps. Returns what must be called when the page drops it.
function lineChart(box, { times, now, before, marks, label, describe }) {
  const values = key => now.map(one => one[key]);
  const data = [times.map(ms => ms / 1000), values("value"), values("low"), values("high"), before.map(one => one ? one.value : null)];
  let plot = null;
  function draw() {
    if (plot) plot.destroy();
    const blue = colour("--c1"), muted = colour("--muted"), hair = colour("--hair");
    const font = "12px system-ui, sans-serif";
    const axis = { stroke: muted, font, grid: { stroke: hair, width: 1 }, ticks: { stroke: hair, width: 1, size: 4 } };
    const options = {
      width: Math.max(240, box.clientWidth), height: 180, tzDate: ts => uPlot.tzDate(new Date(ts * 1e3), "UTC"),
      legend: { show: false }, cursor: { sync: { key: "trend" }, points: { size: 6 }, drag: { x: false, y: false } },
      scales: { y: { range: (_, __, most) => [0, most > 0 ? most * 1.05 : 1] } },
      axes: [
        { ...axis, space: 60, incrs: [3600, 10800, 21600, 43200, 86400, 172800, 259200, 604800, 1209600],
          values: (_, ticks, __, ___, step) => ticks.map(at => axisTime(at * 1000, step >= 86400)) },
        { ...axis, size: 52, values: (_, ticks) => ticks.map(value => Number((100 * value).toFixed(2)) + "%") },
      ],
      series: [
        {}, { stroke: blue, width: 2, spanGaps: false, points: { show: now.filter(one => one.value !== null).length < 50, size: 5 } },
        { stroke: blue, width: 0.75, points: { show: false } }, { stroke: blue, width: 0.75, points: { show: false } },
        { stroke: muted, width: 1.5, dash: [6, 3], points: { show: false } },
      ],
      bands: [{ series: [3, 2], fill: blue.replace("rgb(", "rgba(").replace(")", ", 0.18)") }],
      hooks: {
        draw: [u => {
          const context = u.ctx;
          context.save();
          context.strokeStyle = context.fillStyle = muted;
          context.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
          for (const mark of marks) {
            const x = u.valToPos(mark.at / 1000, "x", true);
            context.beginPath(); context.moveTo(x, u.bbox.top); context.lineTo(x, u.bbox.top + u.bbox.height); context.stroke();
            context.textAlign = x > u.bbox.left + u.bbox.width * 0.7 ? "right" : "left";
            context.fillText(` ${mark.text.slice(0, 24)} `, x, u.bbox.top + 12 * devicePixelRatio);
          }
          context.restore();
        }],
        setCursor: [u => { if (u.cursor.idx != null && document.activeElement === box) box.tell(u.cursor.idx); }],
      },
    };
    plot = new uPlot(options, data, box);
  }
  box.tabIndex = 0;
  box.setAttribute("role", "application");
  box.setAttribute("aria-roledescription", "chart");
  box.setAttribute("aria-label", `${label}, ${times.length} points. Arrow keys read the values.`);
  const status = document.createElement("p");
  status.className = "reading";
  status.setAttribute("role", "status");
  box.after(status);
  let at = times.length - 1;
  box.tell = index => { at = index; status.textContent = describe(index); };
  box.addEventListener("keydown", event => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 }[event.key];
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    box.tell(Math.min(times.length - 1, Math.max(0, at + step)));
    plot.setCursor({ left: plot.valToPos(times[at] / 1000, "x"), top: 0 });
  });
  const sized = new ResizeObserver(() => { if (plot && Math.abs(plot.width - box.clientWidth) > 1) plot.setSize({ width: box.clientWidth, height: 180 }); });
  const dark = matchMedia("(prefers-color-scheme: dark)");
  draw();
  sized.observe(box);
  dark.addEventListener("change", draw);
  document.addEventListener("themed", draw);
  return () => { sized.disconnect(); dark.removeEventListener("change", draw); document.removeEventListener("themed", draw); plot.destroy(); };
}

function axisTime(ms, wholeDays) {
  const shape = wholeDays ? { day: "numeric", month: "short" } : { hour: "2-digit", minute: "2-digit", hour12: false };
  return new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", ...shape }).format(ms);
}

// Draws a rate with its interval for each row: [name, rate]. The widths are real pixels, so that labels keep their size.
function dotChart(box, rows, text, title) {
  function draw() {
    box.replaceChildren();
    const width = Math.max(240, box.clientWidth), left = 44, right = 132, height = 26;
    const most = Math.max(0.01, ...rows.map(([, rate]) => rate.high ?? 0));
    const x = value => left + (width - left - right) * value / most;
    const picture = svg("svg", { width, height: rows.length * height + 20, role: "img", "aria-label": title });
    const ticks = [0, most / 2, most];
    for (const tick of ticks) {
      picture.append(svg("line", { x1: x(tick), x2: x(tick), y1: 0, y2: rows.length * height, class: "grid" }));
      picture.append(svg("text", { x: x(tick), y: rows.length * height + 15, "text-anchor": "middle", class: "axis" }, `${(100 * tick).toFixed(most < 0.05 ? 1 : 0)}%`));
    }
    rows.forEach(([name, rate], i) => {
      const y = i * height + height / 2;
      picture.append(svg("text", { x: left - 10, y: y + 4, "text-anchor": "end", class: "axis" }, name));
      if (rate.value !== null) {
        picture.append(svg("line", { x1: x(rate.low), x2: x(rate.high), y1: y, y2: y, class: "whisker" }));
        picture.append(svg("circle", { cx: x(rate.value), cy: y, r: 4, class: "dot" }));
      }
      picture.append(svg("text", { x: width - right + 12, y: y + 4, class: "value" }, text(rate)));
    });
    box.append(picture);
  }
  draw();
  let width = box.clientWidth;
  const sized = new ResizeObserver(() => { if (box.clientWidth !== width) { width = box.clientWidth; draw(); } });
  sized.observe(box);
  return () => sized.disconnect();
}
