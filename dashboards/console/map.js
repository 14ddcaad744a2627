/* Who depends on whom, in rows from who is called by people down to the hosts: layout and drawing. */

import { svg } from "./dom.js";
import { cut, lasts } from "./words.js";

const WIDE = 164, HIGH = 38, GAP = 20, ROW = 76, EDGE = 18;
const ROWS = ["feature", "model", "version", "service", "dependency", "replica", "process", "gpu", "host", "source"], SERVICES = 3;
const few = (v) => (v >= 100 ? Math.round(v) : Number(v.toPrecision(2))).toString();

/** Rows from top to bottom. Services stand as many rows down as there are calls above them; a circle is cut where it closes. */
function rows(nodes, edges) {
  const calls = new Map(nodes.map((n) => [n.id, []]));
  for (const e of edges) if (e.kind === "calls") calls.get(e.src).push(e.dst);
  const depth = new Map(), called = new Set(edges.filter((e) => e.kind === "calls").map((e) => e.dst));
  const sink = (id, level, path) => {
    if (path.has(id) || (depth.get(id) ?? -1) >= level || level > 12) return;
    depth.set(id, level);
    path.add(id);
    for (const next of calls.get(id)) sink(next, level + 1, path);
    path.delete(id);
  };
  const callers = nodes.filter((n) => n.kind === "service" || n.kind === "dependency");
  for (const n of callers) if (!called.has(n.id)) sink(n.id, 0, new Set());
  for (const n of callers) if (!depth.has(n.id)) sink(n.id, 0, new Set());
  const at = (n) => (depth.has(n.id) ? [SERVICES, depth.get(n.id)] : [ROWS.indexOf(n.kind), 0]);
  const keys = new Map();
  for (const n of nodes) {
    const key = at(n).map((x) => String(x).padStart(2, "0")).join(".");
    if (!keys.has(key)) keys.set(key, []);
    keys.get(key).push(n);
  }
  const found = [...keys.keys()].sort().map((key) => keys.get(key));
  settle(found, edges);
  return found;
}

/** Put each thing near the middle of those it is joined with: few lines cross. Four sweeps are enough. */
function settle(found, edges) {
  const near = new Map(found.flat().map((n) => [n.id, []]));
  for (const e of edges) { near.get(e.src).push(e.dst); near.get(e.dst).push(e.src); }
  const place = new Map();
  found.forEach((row) => row.forEach((n, i) => place.set(n.id, (i + 0.5) / row.length)));
  for (let sweep = 0; sweep < 4; sweep += 1) {
    for (const row of sweep % 2 ? [...found].reverse() : found) {
      const middle = new Map(row.map((n) => {
        const others = near.get(n.id);
        return [n.id, others.length ? others.reduce((sum, id) => sum + (place.get(id) ?? 0.5), 0) / others.length : place.get(n.id)];
      }));
      row.sort((a, b) => middle.get(a.id) - middle.get(b.id) || a.id.localeCompare(b.id));
      row.forEach((n, i) => place.set(n.id, (i + 0.5) / row.length));
    }
  }
}

/** Draw a graph into an <svg>. parts: id -> what it is in an incident; path: pairs of ids that are lit. */
export function drawMap(place, got, { picked = "", pick = null, parts = {}, path = [], across = 24 } = {}) {
  const { nodes, edges } = got, found = rows(nodes, edges), spot = new Map();
  const most = Math.max(1, ...found.map((row) => Math.min(row.length, across)));
  const wide = most * (WIDE + GAP) - GAP + 2 * EDGE;
  let y = EDGE;
  for (const row of found) {
    for (let i = 0; i < row.length; i += most) {
      const line = row.slice(i, i + most), left = (wide - line.length * (WIDE + GAP) + GAP) / 2;
      line.forEach((n, k) => spot.set(n.id, { x: left + k * (WIDE + GAP), y }));
      y += i + most < row.length ? HIGH + GAP : ROW;
    }
  }
  const high = Math.max(y - ROW + HIGH + EDGE, 60), lit = new Set(path.map((pair) => pair.join("\n")));
  place.setAttribute("viewBox", `0 0 ${wide} ${high}`);
  place.style.width = `${wide}px`;
  place.style.minWidth = `${0.66 * wide}px`;
  place.style.aspectRatio = `${wide} / ${high}`;
  const focus = document.activeElement?.dataset?.id;
  const on = (e) => lit.has([e.src, e.dst].sort().join("\n"));
  place.replaceChildren(
    ...[...edges].sort((a, b) => on(a) - on(b)).map((e) => line(e, spot, picked, on(e))),
    ...nodes.map((n) => box(n, spot.get(n.id), picked, pick, parts[n.id])));
  if (focus) place.querySelector(`[data-id="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
}

function line(e, spot, picked, lit) {
  const a = spot.get(e.src), b = spot.get(e.dst), side = a.y === b.y, up = a.y <= b.y ? [a, b] : [b, a];
  const [x1, y1, x2, y2] = [up[0].x + WIDE / 2, up[0].y + (side ? 0 : HIGH), up[1].x + WIDE / 2, up[1].y];
  const bend = side ? -Math.min(60, 24 + Math.abs(x2 - x1) / 8) : (y2 - y1) / 2;
  const d = `M${x1} ${y1} C${x1} ${y1 + bend} ${x2} ${side ? y2 + bend : y2 - bend} ${x2} ${y2}`;
  const bad = (e.carries.errors || 0) > 0.05 * (e.carries.requests || Infinity);
  const chosen = picked && (e.src === picked || e.dst === picked);
  return svg("path", { d, class: `edge ${e.kind}${bad ? " bad" : ""}${chosen ? " picked" : ""}${lit ? " lit" : ""}${old(e) ? " old" : ""}` }, svg("title", {}, edgeWords(e)));
}

/** An edge that nobody has told for most of the time that it holds. */
export const old = (e) => e.sources.length > 0 && e.sources.every((w) => w.fades_s !== null && w.age_s > w.fades_s);

export function edgeWords(e) {
  const carries = [
    e.carries.requests !== undefined ? `${few(e.carries.requests)} requests/s` : "",
    e.carries.errors !== undefined ? `${few(e.carries.errors)} fail/s` : "",
    e.carries.busy !== undefined ? `${few(e.carries.busy)} at once` : "",
  ].filter(Boolean).join(", ");
  const told = e.sources.map((w) => `${w.source}${w.fades_s === null ? "" : `, ${lasts(w.age_s)} ago`}`).join("; ");
  return `${e.src} ${e.kind.replaceAll("_", " ")} ${e.dst}${carries ? `: ${carries}` : ""}${told ? ` (told by ${told})` : ""}`;
}

function box(n, { x, y }, picked, pick, part) {
  const go = pick ? () => pick(n) : null;
  return svg("g", {
    class: `node ${n.state}${n.suspect || part === "cause" ? " suspect" : ""}${n.id === picked ? " picked" : ""}${part ? ` is-${part}` : ""}`,
    transform: `translate(${x} ${y})`, tabindex: go ? "0" : null, role: go ? "button" : null,
    "aria-label": `${n.kind} ${n.name}, ${part && part !== "near" ? `${part}, ` : ""}${n.state}`, "data-id": n.id, onclick: go,
    onkeydown: go && ((event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); go(); } }),
  }, svg("rect", { width: WIDE, height: HIGH, rx: 7 }), svg("text", { x: 11, y: 15, class: "kind" }, n.kind, part && part !== "near" && part !== "between" ? ` · ${part}` : ""),
  svg("text", { x: 11, y: 30 }, cut(n.name, 21)), svg("title", {}, `${n.id}: ${n.state}`));
}
