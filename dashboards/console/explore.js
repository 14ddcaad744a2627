/* Any series: how it is, how rare that is, its curve with the band; and what moved in a window that was dragged. */

import { chart, forget, legend } from "./charts.js";
import { ask, query } from "./daemon.js";
import { $, empty, fill, h, width } from "./dom.js";
import { now } from "./store.js";
import { band, lasts, many, rare, say, three, time } from "./words.js";

const SPANS = [["15m", "15 min"], ["1h", "1 h"], ["6h", "6 h"], ["24h", "24 h"]];
const PAGE = 100;
let at = {}, go = () => {}, ranked = { key: "", got: null };

/** What the address says: words, the series that is shown, the stretch of time, the window. */
function read(asked) {
  const number = (name) => (asked.get(name) ? Number(asked.get(name)) : null);
  return { search: asked.get("search") || "", sort: asked.get("sort") || "rare", series: asked.get("series") || "", span: asked.get("span") || "15m", start: number("start"), end: number("end"), from: number("from"), to: number("to"), more: number("more") || PAGE };
}

const address = (change) => {
  const next = { ...at, ...change };
  return `/explore?${query({ ...next, sort: next.sort === "rare" ? "" : next.sort, span: next.span === "15m" ? "" : next.span, more: next.more === PAGE ? "" : next.more })}`;
};

export const page = {
  title: "Explore",
  every: 5,
  wide: true,
  keeps: true, // another address of the same page is drawn into what is there
  async load(_, asked) {
    at = read(asked);
    const found = await ask(`/api/explore/series?${query({ search: at.search, sort: at.sort, limit: Math.min(500, at.more) })}`);
    // without a choice the rarest is shown; a window alone is ranked without one
    const series = at.series || (at.from ? "" : found.series[0]?.series) || found.series[0]?.series || "";
    const ends = span();
    const [curve, score, past, rank] = await Promise.all([
      series ? ask(`/api/chart?${query({ series, ...ends })}`).catch((fault) => ({ fault })) : null,
      series ? ask(`/api/explore/score?${query({ series })}`).catch(() => null) : null,
      series ? ask(`/api/explore/past-score?${query({ series, ...ends })}`).catch(() => null) : null,
      moved(),
    ]);
    return { found, series, curve, score, past, rank };
  },
  build(root, to) {
    go = to;
    at = read(new URLSearchParams(location.search));
    root.append(
      h("div", { class: "bar" }, h("h1", { tabindex: "-1" }, "Explore"),
        h("label", { class: "hidden", for: "search" }, "Search series"),
        h("input", { id: "search", type: "search", placeholder: "Search series: latency wine", autocomplete: "off", spellcheck: "false", value: at.search, oninput: typed }),
        h("div", { id: "sorts", class: "tabs", role: "group", "aria-label": "Order" }), h("p", { id: "count", class: "soft", role: "status" })),
      h("div", { class: "split" },
        h("div", { id: "list", class: "card rows series-list", role: "region", "aria-label": "Series", tabindex: "-1" }, h("p", { class: "empty loading" }, "Looking…")),
        h("div", {}, h("section", { "aria-labelledby": "curve-title" }, h("h2", { id: "curve-title" }, "A series"), h("div", { id: "curve" })),
          h("section", { "aria-labelledby": "rank-title" }, h("h2", { id: "rank-title" }, "What moved"), h("div", { id: "window" }), h("div", { id: "rank" })))));
  },
  draw({ found, series, curve, score, past, rank }) {
    if (document.activeElement !== $("search") && $("search").value !== at.search) $("search").value = at.search;
    fill($("sorts"), [at.sort], () => [["rare", "Rarest"], ["name", "By name"]].map(([v, text]) => h("button", { type: "button", "data-focus": `sort ${v}`, "aria-pressed": String(at.sort === v), onclick: () => go(address({ sort: v })) }, text)));
    $("count").textContent = at.search ? `${found.found} of ${found.total} series` : `${many(found.total, "series", "series")}`;
    fill($("list"), [found, series], () => (found.series.length ? [found.series.map((s) => row(s, series)),
      found.found > found.series.length ? h("button", { type: "button", class: "small quiet", "data-focus": "more", onclick: () => go(address({ more: Math.min(500, at.more + 200) })) }, `${found.found - found.series.length} more`) : null]
      : empty(found.total ? "No series has these words." : "Nothing has been measured yet.")));
    curveOf(series, curve, score, past);
    windowForm(curve);
    ranking(rank);
  },
};

let waits = 0;
function typed(event) {
  clearTimeout(waits);
  const search = event.target.value.trim();
  waits = setTimeout(() => { history.replaceState(null, "", address({ search, series: "", more: PAGE })); go(address({ search, series: "", more: PAGE })); }, 250);
}

/** The stretch that is drawn: that of the address, or the last minutes. */
function span() {
  if (at.start) return { from: at.start, to: at.end || "" };
  return at.from ? { from: Math.min(at.from - 2 * (at.to - at.from), at.from - 300), to: Math.min(now(), at.to + (at.to - at.from)) } : { from: at.span, to: "" };
}

/** Ranks are asked for once a window: what is over does not change. */
async function moved() {
  if (!at.from || !at.to) return null;
  const key = `${at.from} ${at.to} ${at.search}`;
  if (ranked.key !== key) ranked = { key, got: await ask(`/api/explore/rank?${query({ start: at.from, end: at.to, search: at.search, limit: 40 })}`).catch((fault) => ({ fault })) };
  return ranked.got;
}

function row(s, chosen) {
  return h("a", { class: `row series ${s.state}`, href: address({ series: s.series }), "data-line": true, "data-focus": s.series, "aria-current": s.series === chosen ? "true" : null },
    h("i", { class: `dot ${{ abnormal: "blind", ordinary: "fresh", learning: "learning", unknown: "" }[s.state]}`, title: s.state }),
    h("span", { class: "what" }, h("b", {}, s.title), h("small", {}, s.subject)),
    h("span", { class: "value" }, say(s.value, s.unit), h("small", {}, s.state === "learning" ? "learning" : s.state === "unknown" ? "" : s.state === "abnormal" && s.p === null ? "abnormal" : rare(s.p))));
}

function curveOf(series, curve, score, past) {
  if (!series) { fill($("curve"), "none", () => empty("Choose a series.")); return; }
  if (curve.fault) { fill($("curve"), curve.fault.message, () => empty(`Not shown: ${curve.fault.whole || curve.fault.message}`)); return; }
  if ($("curve").dataset.series !== series) { forget("explore "); $("curve").dataset.series = series; }
  const c = { ...curve, window: at.from ? [at.from, at.to] : null };
  // where no incident told a band, that of the detector stands
  if (c.low === null && c.high === null && score) Object.assign(c, { low: score.low, high: score.high });
  const kinds = new Set(c.marks.map((m) => m.kind));
  const pick = (a, b) => go(address({ series, from: Math.round(a), to: Math.round(b), start: at.start || Math.round(curve.data[0][0]), end: at.end || Math.round(curve.data[0].at(-1)) }));
  const how = past && past.data[1].some((v) => v !== null) && curve.data[0].length ? pastOf(past, c) : null, text = pastWords(past);
  fill($("curve"), [series, at.start, at.end, at.span, at.from, score && [score.state, rare(score.p), score.family], [...kinds], Boolean(how), text], () => h("div", { class: "card pad" },
    h("div", { class: "bar low" }, h("p", { class: "grow" }, h("code", {}, series)),
      h("div", { class: "tabs", role: "group", "aria-label": "Stretch of time" }, SPANS.map(([v, text]) => h("button", { type: "button", "data-focus": `span ${v}`, "aria-pressed": String(!at.start && !at.from && at.span === v), onclick: () => go(address({ span: v, start: "", end: "", from: "", to: "", series })) }, text)))),
    chart(`explore ${series}`, c, { height: 230, pick }),
    how ? chart(`explore score ${series}`, how, { height: 96, pick }) : null,
    h("p", { class: "soft small" }, scoreWords(score, c)), h("p", { id: "past-score", class: "soft small" }, text), legend(kinds)));
  chart(`explore ${series}`, c, { height: 230, pick });
  if (how) chart(`explore score ${series}`, how, { height: 96, pick });
}

/** What its detector said then, below the curve and over the same time. */
const pastOf = (past, c) => ({ title: "How rare, as its detector said then", subject: c.subject, unit: "score", data: past.data, low: null, high: past.limit, marks: [], window: c.window, span: [c.data[0][0], c.data[0].at(-1)] });

/** The rarest moment of the window, or of what is drawn. */
function pastWords(past) {
  if (!past) return "";
  const where = at.from ? "In the window" : "In this time", said = past.data[0].map((t, k) => [t, past.data[1][k]])
    .filter(([t, v]) => v !== null && (!at.from || (t + past.step_s > at.from && t < at.to)));
  if (!said.length) return `${where} nothing was said of how rare it is: its past was too short, or no daemon lived.`;
  const [when, most] = said.reduce((a, b) => (b[1] > a[1] ? b : a));
  const told = past.limit === null ? "" : `; beyond ${say(past.limit, "score")} it counts as abnormal, by the budget of now`;
  return `${where} ${rare(10 ** -most) === "as ever" ? "it was as ever" : `it was rarest at ${time(when)}: ${say(most, "score")}`}${told}.`;
}

const seldom = (p) => (p >= 0.05 ? "now as ever" : p <= 1e-9 ? "now as never before" : `now as rare as ${rare(p)}`);

function scoreWords(s, c) {
  if (!s) return "Its score is not known.";
  const expected = band(c.low, c.high, c.unit);
  if (s.state === "unknown") return "It has no value now, so nothing is known of it.";
  if (s.p === null) return s.state === "learning" ? "Its history is still too short to judge by." : "It is not scored.";
  return `${s.state === "learning" ? "Still learning; " : ""}${seldom(s.p)} (${s.family}${s.deviations !== null ? `, ${s.deviations >= 1000 ? "over 1000" : three(s.deviations)} deviations` : ""})${expected ? `, expected ${expected}` : ""}; ${many(s.learnt_rows, "row")} learnt.`;
}

/** The window by keyboard, too: two times and a button. */
function windowForm(curve) {
  const local = (ts) => (ts ? new Date(ts * 1000 - new Date(ts * 1000).getTimezoneOffset() * 60000).toISOString().slice(0, 19) : "");
  const data = curve && !curve.fault ? curve.data[0] : [];
  const from = at.from || (data.length ? data[Math.floor(data.length * 0.75)] : now() - 300), to = at.to || data.at(-1) || now();
  if ($("window").contains(document.activeElement)) return;
  fill($("window"), [at.from, at.to, at.series, at.span, Boolean(data.length)], () => h("form", { class: "bar low", onsubmit: (event) => {
    event.preventDefault();
    const [a, b] = ["from", "to"].map((name) => Math.round(new Date(event.target.elements[name].value).getTime() / 1000));
    if (a && b) go(address({ from: Math.min(a, b), to: Math.max(a, b), start: at.start, end: at.end }));
  } },
  h("p", { class: "soft grow" }, at.from ? `${time(at.from)} to ${time(at.to)}, ${lasts(at.to - at.from)}` : "Drag over the chart, or say from when to when: all series are ranked by how far they moved then, against their own past."),
  h("label", { for: "from" }, "From"), h("input", { id: "from", name: "from", type: "datetime-local", step: 1, value: local(from), required: true }),
  h("label", { for: "to" }, "to"), h("input", { id: "to", name: "to", type: "datetime-local", step: 1, value: local(to), required: true }),
  h("button", { type: "submit", class: "small", "data-focus": "rank" }, "Rank"),
  at.from ? h("a", { class: "button small quiet", href: address({ from: "", to: "", start: "", end: "" }) }, "Clear") : null));
}

function ranking(r) {
  if (!r) { fill($("rank"), "none", () => []); return; }
  if (r.fault) { fill($("rank"), r.fault.message, () => empty(`Not ranked: ${r.fault.whole || r.fault.message}`)); return; }
  const most = Math.max(2, ...r.series.map((s) => Math.log10(s.score + 1)));
  fill($("rank"), [r.start, r.end, r.series.map((s) => s.series), at.series], () => [
    r.series.length ? h("div", { class: "card scroll", "data-scroll": "rank" }, h("table", { class: "ranked" },
      h("caption", { class: "hidden" }, "Series by how far they moved, the most first"),
      h("thead", {}, h("tr", {}, ["Moved", "Series", "Usually", "Then up to", "Began"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", {}, r.series.map((s) => h("tr", { class: s.series === at.series ? "on" : "" },
        h("td", { class: "score" }, h("span", { class: "weight" }, width(h("i"), Math.log10(s.score + 1) / most)), h("span", {}, `${s.direction > 0 ? "↑" : "↓"} ${s.score >= 1000 ? "> 1000" : s.score >= 100 ? Math.round(s.score) : s.score.toPrecision(2)}×`)),
        h("th", { scope: "row" }, h("a", { href: address({ series: s.series }), "data-line": true, "data-focus": `rank ${s.series}` }, s.title, h("small", {}, ` ${s.subject}`))),
        h("td", {}, say(s.usual, s.unit)), h("td", {}, say(s.now, s.unit)), h("td", {}, s.begun_s === null ? "" : `+${lasts(s.begun_s)}`)))))) : empty("Nothing moved by more than is ordinary for it."),
    h("p", { class: "soft small" }, `Held against ${lasts(r.start - r.past)} before; 1× = as far as it ordinarily goes. ${r.compared} compared${r.silent ? `, ${r.silent} without past or values` : ""}${r.left_out ? `, ${r.left_out} left out for want of time: search for fewer` : ""}, in ${r.took_s.toFixed(2)} s.`)]);
}
