/* Charts: a curve, the band that was expected, and what happened as lines. One element a chart, kept while data come. */

import { h } from "./dom.js";
import { band, say, time } from "./words.js";

const live = new Map();
const paint = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Draws when a place gets a width, so that nothing is drawn that is not laid out. */
const sizes = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const one = live.get(target.dataset.key);
    if (!one || contentRect.width < 20) continue;
    if (!one.plot) draw(one);
    else if (Math.abs(one.plot.width - contentRect.width) > 1) one.plot.setSize({ width: contentRect.width, height: one.height });
  }
});

/** Return the figure of a chart; the same element as long as its key is the same. */
export function chart(key, c, { height = 132, pick = null } = {}) {
  let one = live.get(key);
  if (!one) {
    const place = h("div", { class: "plot", role: "img", "data-key": key });
    place.style.height = `${height}px`;
    const value = h("span", { class: "now" });
    one = { key, place, value, height, pick, plot: null, chart: {}, figure: h("figure", { class: "chart" }, h("figcaption", {}, h("b", {}, c.title), value), place) };
    live.set(key, one);
    sizes.observe(place);
  }
  Object.assign(one.chart, c);
  one.pick = pick;
  describe(one);
  if (one.plot) one.plot.setData(c.data, true);
  return one.figure;
}

/** Forget charts whose key begins so. */
export function forget(prefix = "") {
  for (const [key, one] of live) {
    if (!key.startsWith(prefix)) continue;
    sizes.unobserve(one.place);
    one.plot?.destroy();
    live.delete(key);
  }
}

/** Draw all anew: other colours. */
export function redraw() {
  for (const one of live.values()) {
    if (!one.plot) continue;
    one.plot.destroy();
    draw(one);
  }
}

function describe(one) {
  const c = one.chart, values = c.data[1].filter((v) => v !== null), last = values.at(-1), expected = band(c.low, c.high, c.unit);
  one.place.setAttribute("aria-label", values.length
    ? `${c.title} of ${c.subject}: now ${say(last, c.unit)}, highest ${say(Math.max(...values), c.unit)}, lowest ${say(Math.min(...values), c.unit)}${expected ? `, expected ${expected}` : ""}`
    : `${c.title} of ${c.subject}: no values`);
  one.place.title = expected ? `expected ${expected}` : "";
  one.place.classList.toggle("none", !values.length);
  rest(one);
}

/** Beside the title, while nobody points: whose it is, and the newest value. */
function rest(one) {
  const c = one.chart, last = c.data[1].findLast((v) => v !== null);
  one.value.textContent = last === undefined ? `${c.subject}: no values` : `${c.subject}  ${say(last, c.unit)}`;
}

function scale(c, low, high) {
  const ends = [low, high, c.low, c.high].filter((v) => v !== null && v !== undefined && Number.isFinite(v));
  if (!ends.length) return [0, 1];
  let [from, to] = [Math.min(...ends), Math.max(...ends)];
  // from zero, so that noise does not look like a mountain; not where only the last percent counts
  if (from > 0 && c.low === null) from = 0;
  const room = (to - from || Math.abs(to) || 1) * 0.08;
  return [from === 0 ? 0 : from - room, to + room];
}

function draw(one) {
  const { place, chart: c } = one, soft = paint("--soft"), grid = { stroke: paint("--grid"), width: 1 }, font = "11px system-ui, sans-serif";
  const clock = (t) => new Date(t * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
  const span = () => (c.data[0].length > 1 ? c.data[0].at(-1) - c.data[0][0] : 0);
  const tick = (t) => (span() < 300 ? new Date(t * 1000).toLocaleTimeString([], { hour12: false })
    : span() > 172800 ? new Date(t * 1000).toLocaleDateString([], { month: "short", day: "numeric" }) : clock(t));
  one.plot = new uPlot({
    width: place.clientWidth, height: one.height, padding: [8, 8, 0, 0], legend: { show: false },
    cursor: { y: false, points: { size: 6 }, drag: { x: Boolean(one.pick), y: false, setScale: false } },
    scales: { x: { time: true, range: (u, low, high) => c.span || [low, high] }, y: { range: (u, low, high) => scale(c, low, high) } },
    axes: [
      { stroke: soft, grid, ticks: { show: false }, font, size: 22, space: 70, values: (u, ticks) => ticks.map(tick) },
      { stroke: soft, grid, ticks: { show: false }, font, space: 26,
        size: (u, labels) => Math.max(44, ...(labels || []).map((text) => 14 + 6.3 * text.length)), values: (u, ticks) => ticks.map((v) => say(v, c.unit)) },
    ],
    series: [{}, { stroke: paint("--curve"), width: 1.5, points: { show: false }, spanGaps: false }],
    hooks: {
      drawClear: [(u) => expect(u, c)], draw: [(u) => marks(u, c)], setCursor: [(u) => hover(u, one)],
      setSelect: [(u) => {
        if (!one.pick || u.select.width < 6) return;
        one.pick(u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x"));
      }],
    },
  }, c.data, place);
}

function expect(u, c) {
  if (c.low === null && c.high === null) return;
  const { left, top, width, height } = u.bbox, x = u.ctx;
  const clamp = (y) => Math.min(top + height, Math.max(top, y));
  const upper = c.high === null ? top : clamp(u.valToPos(c.high, "y", true)), lower = c.low === null ? top + height : clamp(u.valToPos(c.low, "y", true));
  x.save();
  x.fillStyle = paint("--band");
  x.fillRect(left, upper, width, lower - upper);
  x.strokeStyle = paint("--band-edge");
  x.lineWidth = devicePixelRatio;
  for (const [value, y] of [[c.high, upper], [c.low, lower]]) if (value !== null) { x.beginPath(); x.moveTo(left, y); x.lineTo(left + width, y); x.stroke(); }
  x.restore();
}

const colours = { onset: "--bad", act: "--go", change: "--warn", end: "--good" };

function marks(u, c) {
  const { left, top, width, height } = u.bbox, x = u.ctx;
  x.save();
  if (c.window) { // the window that was dragged
    const [a, b] = c.window.map((t) => Math.min(left + width, Math.max(left, u.valToPos(t, "x", true))));
    x.fillStyle = paint("--pick");
    x.fillRect(a, top, Math.max(2, b - a), height);
  }
  x.lineWidth = 1.5 * devicePixelRatio;
  x.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
  for (const m of c.marks) {
    const at = u.valToPos(m.ts, "x", true);
    if (at < left || at > left + width) continue;
    x.strokeStyle = paint(colours[m.kind] || "--faint");
    x.beginPath(); x.moveTo(at, top); x.lineTo(at, top + height); x.stroke();
  }
  x.restore();
}

function hover(u, one) {
  const c = one.chart, i = u.cursor.idx, near = i === null || i === undefined || u.cursor.left < 0 ? null : c.data[0][i];
  if (near === null) { rest(one); return; }
  const mark = c.marks.find((m) => Math.abs(u.valToPos(m.ts, "x") - u.cursor.left) < 6);
  one.value.textContent = mark ? `${time(mark.ts)} ${mark.text}` : `${time(near)}  ${say(c.data[1][i], c.unit)}`;
}

/** What the lines and the band mean. */
export const legend = (kinds) => h("p", { class: "legend" }, h("span", {}, h("i"), "expected"),
  [["onset", "it began"], ["change", "something changed"], ["act", "homeostat acted"], ["end", "resolved"]]
    .filter(([kind]) => kinds.has(kind)).map(([kind, text]) => h("span", {}, h("i", { class: `mark ${kind}` }), text)));
