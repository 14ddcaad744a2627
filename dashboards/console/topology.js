/* The graph page: /api/topology in rows, from who is called by people down to the hosts.
   No framework, no inline script, nothing from elsewhere; text is never parsed as HTML. */
"use strict";

const $ = (id) => document.getElementById(id);
const NS = "http://www.w3.org/2000/svg";
const WIDE = 168, HIGH = 40, GAP = 22, ROW = 80, EDGE = 24;
const ROWS = ["model", "version", "service", "dependency", "replica", "process", "gpu", "host", "feature", "source"];
const state = { got: null, picked: "", shape: "" };

function make(tag, attributes, ...children) {
  const made = tag === tag.toLowerCase() && ["svg", "g", "rect", "text", "path", "title"].includes(tag) ? document.createElementNS(NS, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return made;
}

const lasts = (s) => (s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`);
const few = (v) => (v >= 100 ? Math.round(v) : Number(v.toPrecision(2))).toString();
const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/* ---------------------------------------------------------------- layout */

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
  const at = (n) => (depth.has(n.id) ? [2, depth.get(n.id)] : [ROWS.indexOf(n.kind) < 2 ? ROWS.indexOf(n.kind) : ROWS.indexOf(n.kind) + 1, 0]);
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
  const note = () => found.forEach((row) => row.forEach((n, i) => place.set(n.id, (i + 0.5) / row.length)));
  note();
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

/* ---------------------------------------------------------------- drawing */

function draw() {
  const { nodes, edges } = state.got, found = rows(nodes, edges), spot = new Map();
  const most = Math.max(1, ...found.map((row) => Math.min(row.length, 24)));
  const width = most * (WIDE + GAP) + 2 * EDGE;
  let y = EDGE;
  for (const row of found) {
    for (let i = 0; i < row.length; i += most) {
      const line = row.slice(i, i + most), left = (width - line.length * (WIDE + GAP) + GAP) / 2;
      line.forEach((n, k) => spot.set(n.id, { x: left + k * (WIDE + GAP), y }));
      y += i + most < row.length ? HIGH + GAP : ROW;
    }
  }
  const svg = $("graph");
  svg.setAttribute("viewBox", `0 0 ${width} ${Math.max(y - ROW + HIGH + EDGE, 80)}`);
  svg.style.width = `${width}px`;
  const focus = document.activeElement?.dataset?.id;
  svg.replaceChildren(...edges.map((e) => line(e, spot)), ...nodes.map((n) => box(n, spot.get(n.id))));
  if (focus) svg.querySelector(`[data-id="${CSS.escape(focus)}"]`)?.focus();
}

function line(e, spot) {
  const a = spot.get(e.src), b = spot.get(e.dst), side = a.y === b.y;
  const up = a.y <= b.y ? [a, b] : [b, a];
  const [x1, y1, x2, y2] = [up[0].x + WIDE / 2, up[0].y + (side ? 0 : HIGH), up[1].x + WIDE / 2, up[1].y];
  const bend = side ? -Math.min(60, 24 + Math.abs(x2 - x1) / 8) : (y2 - y1) / 2;
  const path = `M${x1} ${y1} C${x1} ${y1 + bend} ${x2} ${side ? y2 + bend : y2 - bend} ${x2} ${y2}`;
  const bad = (e.carries.errors || 0) > 0.05 * (e.carries.requests || Infinity);
  const picked = state.picked && (e.src === state.picked || e.dst === state.picked);
  return make("path", { d: path, class: `edge ${e.kind}${bad ? " bad" : ""}${picked ? " picked" : ""}${old(e) ? " old" : ""}` }, make("title", {}, words(e)));
}

/** An edge that nobody has told for most of the time that it holds. */
const old = (e) => e.sources.length > 0 && e.sources.every((w) => w.fades_s !== null && w.age_s > w.fades_s);

function words(e) {
  const carries = [
    e.carries.requests !== undefined ? `${few(e.carries.requests)} requests/s` : "",
    e.carries.errors !== undefined ? `${few(e.carries.errors)} fail/s` : "",
    e.carries.busy !== undefined ? `${few(e.carries.busy)} at once` : "",
  ].filter(Boolean).join(", ");
  const told = e.sources.map((w) => `${w.source}${w.fades_s === null ? "" : `, ${lasts(w.age_s)} ago`}`).join("; ");
  return `${e.src} ${e.kind.replaceAll("_", " ")} ${e.dst}${carries ? `: ${carries}` : ""}${told ? ` (told by ${told})` : ""}`;
}

function box(n, { x, y }) {
  const pick = () => { state.picked = n.id; draw(); about(); };
  return make("g", {
    class: `node ${n.state}${n.suspect ? " suspect" : ""}${n.id === state.picked ? " picked" : ""}`, transform: `translate(${x} ${y})`, tabindex: "0", role: "button",
    "aria-label": `${n.kind} ${n.name}, ${n.state}`, "data-id": n.id, onclick: pick, onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pick(); } },
  }, make("rect", { width: WIDE, height: HIGH, rx: 8 }), make("text", { x: 12, y: 16, class: "kind" }, n.kind), make("text", { x: 12, y: 32 }, cut(n.name, 22)), make("title", {}, `${n.id}: ${n.state}`));
}

function about() {
  const n = state.got.nodes.find((x) => x.id === state.picked);
  $("about-title").textContent = n ? n.id : "Click a thing";
  if (!n) { $("about").replaceChildren(); return; }
  const edges = state.got.edges.filter((e) => e.src === n.id || e.dst === n.id);
  const facts = Object.entries(n.attrs).map(([k, v]) => make("tr", {}, make("th", { scope: "row" }, k), make("td", {}, v)));
  $("about").replaceChildren(make("div", { class: "card about" },
    make("p", {}, make("span", { class: `chip ${n.state}` }, n.state === "page" ? "hurts users" : n.state), n.suspect ? make("span", { class: "chip asks" }, "suspect") : null,
      n.incident ? make("a", { href: "/" }, ` ${n.incident}`) : null, " ",
      make("button", { type: "button", class: "small", onclick: () => { $("find").value = n.id; look(); } }, "Only what is around it")),
    facts.length ? make("table", {}, facts) : null, make("ul", {}, edges.map((e) => make("li", {}, words(e))))));
}

/* ---------------------------------------------------------------- fresh data */

async function look() {
  const query = new URLSearchParams({ target: $("find").value.trim(), everything: $("all").checked });
  const token = sessionStorage.getItem("token");
  try {
    const answer = await fetch(`/api/topology?${query}`, { headers: token ? { Authorization: `Bearer ${token}` } : {}, cache: "no-store", credentials: "omit" });
    const said = await answer.json();
    if (!answer.ok) throw new Error(answer.status === 401 ? "sign in on the first page, then come back" : [said.error, said.remedy].filter(Boolean).join(": "));
    state.got = said;
    const shape = JSON.stringify([said.nodes.map((n) => [n.id, n.state, n.suspect]), said.edges.map((e) => [e.kind, e.src, e.dst, old(e)])]);
    if (shape !== state.shape) { state.shape = shape; draw(); }
    if (state.picked) about();
    if (!query.get("target")) $("names").replaceChildren(...said.nodes.map((n) => make("option", { value: n.id }, n.name)));
    const ill = said.nodes.filter((n) => ["page", "warning", "note"].includes(n.state)).length;
    $("said").textContent = `${said.nodes.length} things, ${said.edges.length} edges, ${ill ? `${ill} not well` : "all that we see is well"}${said.left_out ? `; ${said.left_out} more are left out, look around one of them` : ""}.`;
    linked(true);
  } catch (error) {
    linked(false);
    $("said").textContent = `Not shown: ${error.message}.`;
  }
}

function linked(yes) {
  document.querySelector("#link .dot").className = `dot ${yes ? "live" : "lost"}`;
  $("link-text").textContent = yes ? "live" : "not connected";
}

if (localStorage.getItem("theme")) document.documentElement.dataset.theme = localStorage.getItem("theme");
$("find").value = new URLSearchParams(location.search).get("around") || "";
$("find").addEventListener("change", look);
$("all").addEventListener("change", look);
setInterval(() => document.visibilityState === "visible" && look(), 5000);
look();
