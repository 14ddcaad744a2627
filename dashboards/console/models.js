/* Models: what serves, how good it is and how surely, what drifts, whose fault a loss is. */

import { ask, part, query } from "./daemon.js";
import { $, empty, fill, h, svg, width } from "./dom.js";
import { now } from "./store.js";
import { cut, lasts, many, percent, three, time, words } from "./words.js";

const BARS = 24;
const LOSSES = new Set(["log_loss", "brier"]); // below 1, too, they are no share of anything
let chosen = "";

export const page = {
  title: "Models",
  every: 5,
  keeps: true,
  async load(_, asked) {
    const all = await ask("/api/models");
    chosen = asked.get("model") || all[0]?.model || "";
    const model = all.find((m) => m.model === chosen);
    const version = asked.get("version") || "";
    let found = null;
    if (model) found = await ask(`/api/models/${part(chosen)}/features?${query({ version })}`).catch((fault) => ({ fault }));
    return { all, model, found, version };
  },
  name: (got) => (got?.model ? `${got.model.model}` : "Models"),
  build(root) {
    root.append(h("div", { class: "bar" }, h("h1", { tabindex: "-1" }, "Models"), h("div", { id: "names", class: "tabs", role: "group", "aria-label": "Models" })),
      h("div", { id: "model" }, h("p", { class: "empty loading" }, "Looking…")));
  },
  draw({ all, model, found, version }) {
    fill($("names"), [all.map((m) => [m.model, m.quality_lost]), chosen], () => all.map((m) => h("a", { class: "tab", href: `/models?${query({ model: m.model })}`, "data-line": true, "data-focus": m.model, "aria-current": m.model === chosen ? "true" : null },
      h("i", { class: `dot ${m.quality_lost ? "blind" : m.quality_lost === false ? "fresh" : "learning"}` }), m.model)));
    fill($("model"), [model, found, version, chosen, Math.floor(now() / 30)], () => (model ? about(model, found, version)
      : empty(all.length ? `Nothing is known of a model ${chosen}.` : "No predictions were logged yet. ", all.length ? null : h("code", {}, "docs/logging-predictions.md"))));
  },
};

const share = (m) => m.accuracy.value === null || m.accuracy.value <= 1;
const figure = (v, ratio) => (v === null ? "unknown" : ratio ? percent3(v) : three(v));
const percent3 = (v) => `${three(v * 100)} %`;

/** A figure with its bounds as a line: what is sure is seen at a glance. */
function bounds(b, { usual = null, low = 0, high = 1, ratio = true } = {}) {
  if (b.value === null) return h("span", { class: "soft" }, "unknown");
  const W = 120, at = (v) => (4 + (W - 8) * Math.max(0, Math.min(1, (v - low) / (high - low || 1)))).toFixed(1);
  const text = `${figure(b.value, ratio)}${b.low === null ? "" : ` (${figure(b.low, ratio)} to ${figure(b.high, ratio)})`}`;
  return h("span", { class: "bounds" }, svg("svg", { viewBox: `0 0 ${W} 14`, width: W, height: 14, "aria-hidden": "true" },
    svg("path", { class: "axis", d: `M4 7H${W - 4}` }), b.low === null ? null : svg("path", { class: "range", d: `M${at(b.low)} 7H${at(b.high)}` }),
    usual === null ? null : svg("path", { class: "usual", d: `M${at(usual)} 1V13` }), svg("circle", { cx: at(b.value), cy: 7, r: 3.5 })), text);
}

function about(m, found, version) {
  const now_ = m.serving[0], ratio = share(m), reference = m.reference_accuracy;
  const lost = m.quality_lost ? "It is worse than its reference" : m.quality_lost === false ? "It is as good as its reference" : "Whether it is as good as its reference is not known yet";
  const fact = (name, value, more) => h("div", {}, h("dt", {}, name), h("dd", {}, value, more ? h("small", {}, ` ${more}`) : null));
  const compared = Object.entries(m.figures), slices = Object.entries(m.slices), gaps = Object.entries(m.gaps);
  const line = ([name, b]) => h("tr", {}, h("th", { scope: "row" }, words(name)), h("td", {}, bounds(b, b.value !== null && (Math.abs(b.value) > 1 || b.value < 0 || LOSSES.has(name)) ? around(b) : { ratio })));
  return [
    h("div", { class: `head small-head${m.quality_lost ? " harm" : ""}` }, h("h2", { class: "big" }, lost), h("p", { class: "soft" }, [
      now_ ? `version ${now_.version || "without a name"} serves since ${time(now_.since)}` : "nothing serves now", m.learning ? "still learning" : "",
      m.preparing.length ? `a reference is being made of ${m.preparing.join(", ")}, ${many(m.held_rows, "row waits", "rows wait")}` : "", m.lost ? `${percent(m.lost)} of predictions were not logged` : ""].filter(Boolean).join("; ")),
    h("dl", { class: "facts" },
      fact("Accuracy", bounds(m.accuracy, { usual: reference, low: ratio ? low(m) : 0, ratio }), reference === null ? "" : `reference ${figure(reference, ratio)}`),
      fact("Expected without labels", m.expected.value === null ? "unknown" : bounds(m.expected, { usual: reference, low: ratio ? low(m) : 0, ratio }), m.expected.value === null ? m.unknown : ""),
      fact("Labels", m.label_coverage === null ? "unknown" : `${percent(m.label_coverage)} have come`, m.label_delay_s === null ? "their age is not known" : `${lasts(m.label_delay_s)} old, as a rule`),
      fact("Rows", now_ ? now_.rows.toLocaleString("en") : "none", now_ ? `${now_.labelled.toLocaleString("en")} with a label` : ""))),
    m.suspects.length ? [h("h2", {}, "What may be to blame"), h("div", { class: "card pad" }, h("ul", { class: "plain" }, m.suspects.map((s) => h("li", {}, h("b", {}, words(s.cause)), `: ${s.reason}`, s.features.length ? h("span", { class: "soft" }, ` (${s.features.slice(0, 6).join(", ")})`) : null))))] : null,
    m.loss ? [h("h2", {}, "What the change of the loss is made of"), loss(m.loss)] : null,
    h("h2", {}, "Inputs"), inputs(m, found, version),
    m.outputs.length ? [h("h2", {}, "What it says"), h("div", { class: "card scroll" }, h("table", {}, heads("Output", "Drift", "Shift (PSI)", "Missing"), h("tbody", {}, m.outputs.map((f) => h("tr", {}, h("th", { scope: "row" }, f.name), h("td", {}, drift(f)), h("td", {}, f.psi === null ? "unknown" : three(f.psi)), h("td", {}, percent(f.missing)))))))] : null,
    compared.length || slices.length || gaps.length ? [h("h2", {}, "Quality by labels, with 95 %"), h("div", { class: "columns even" },
      [["Figures", compared], ["Slices", slices], ["Gaps between groups", gaps]].filter(([, some]) => some.length).map(([title, some]) => h("div", { class: "card scroll" }, h("table", { class: "figures" }, heads(title, "Value and bounds"), h("tbody", {}, some.map(line))))))] : null,
    h("h2", {}, "Versions"), versions(m),
    m.compared.length ? h("div", { class: "card pad" }, m.compared.map((c) => h("p", {}, h("span", { class: `chip ${{ worse: "harmed", better: "helped" }[c.verdict] || ""}` }, c.verdict), ` ${c.said}`))) : null,
  ];
}

const heads = (...texts) => h("thead", {}, h("tr", {}, texts.map((t) => h("th", { scope: "col" }, t))));
const low = (m) => Math.max(0, Math.floor(10 * Math.min(...[m.accuracy.low, m.expected.low, m.reference_accuracy, 0.9].filter((v) => v !== null)) - 0.5) / 10);
const around = (b) => ({ low: Math.min(0, b.low ?? b.value), high: Math.max(0, b.high ?? b.value) || 1, ratio: false });

function drift(f) {
  if (f.broken) return h("span", { class: "chip page" }, `broken: ${f.broken}`);
  if (f.learning) return h("span", { class: "chip" }, "learning");
  if (f.evidence === null) return h("span", { class: "chip" }, "not known");
  return h("span", { class: `chip ${f.drifted ? "warning" : ""}`, title: "log10 of the evidence; above 0 it is more than chance" }, f.drifted ? `drifts, evidence ${f.evidence.toFixed(1)}` : "as its reference");
}

function inputs(m, found, version) {
  if (!found || found.fault) return empty(found ? `Not shown: ${found.fault.whole || found.fault.message}` : "No feature was logged.");
  if (!found.features.length) return empty("No feature was logged, or the first rows are still being gathered.");
  return [h("p", { class: "soft" }, `Version ${found.version || "without a name"}: ${many(found.features.length, "feature")}, ${found.features.filter((f) => f.drifted || f.broken).length} not as the reference. `, h("span", { class: "legend inline" }, h("i", { class: "usual" }), "reference ", h("i", { class: "late" }), "of late"),
    version ? h("a", { href: `/models?${query({ model: m.model })}` }, " the one in use") : null),
  h("div", { class: "features" }, found.features.map((f) => h("figure", { class: `card feature${f.drifted || f.broken ? " moved" : ""}` },
    h("figcaption", {}, h("b", { title: f.name }, cut(f.name, 30)), drift(f)), spread(f),
    h("p", { class: "soft small" }, [f.used ? "" : "only logged", f.psi === null ? "shift unknown" : `PSI ${three(f.psi)}`, f.missing ? `${percent3(f.missing)} missing` : "none missing", f.wrong ? `${percent3(f.wrong)} unknown values` : ""].filter(Boolean).join(", ")))))];
}

/** Both distributions over the cells of the reference: bars of late, an outline of the reference. */
function spread(f) {
  if (!f.usual.length) return h("p", { class: "soft spread none" }, "no distribution is known");
  const W = 240, H = 64, k = f.values.length || f.usual.length, [usual, late] = [f.usual, f.now.length ? f.now : f.usual.map(() => 0)];
  const cells = f.values.length > BARS ? [...f.values.keys()].sort((a, b) => usual[b] - usual[a]).slice(0, BARS) : [...Array(k).keys()];
  const most = Math.max(...cells.map((i) => Math.max(usual[i], late[i])), 1e-9), wide = W / cells.length;
  const y = (v) => (H - (H - 4) * (v / most)).toFixed(1);
  const name = (i) => (f.values.length ? f.values[i] : i === 0 ? `below ${three(f.edges[0])}` : i === f.edges.length ? `above ${three(f.edges.at(-1))}` : `${three(f.edges[i - 1])} to ${three(f.edges[i])}`);
  const worst = cells.reduce((a, b) => (Math.abs(late[b] - usual[b]) > Math.abs(late[a] - usual[a]) ? b : a), cells[0]);
  const said = f.now.length ? `largest change ${name(worst)}: ${percent3(usual[worst])} of the reference, ${percent3(late[worst])} of late` : "no rows of late";
  return [h("div", { class: "spread", role: "img", "aria-label": `${f.name}: ${said}`, title: said }, svg("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    cells.map((i, n) => svg("rect", { class: "late", x: (n * wide + wide * 0.12).toFixed(1), width: (wide * 0.76).toFixed(1), y: y(late[i]), height: (H - y(late[i])).toFixed(1) })),
    svg("path", { class: "usual", d: cells.map((i, n) => `${n ? "L" : "M"}${(n * wide).toFixed(1)} ${y(usual[i])}H${((n + 1) * wide).toFixed(1)}`).join("") }))),
  h("p", { class: "ends soft small" }, h("span", {}, cut(String(f.values.length ? name(cells[0]) : three(f.edges[0])), 14)), h("span", {}, cut(String(f.values.length ? name(cells.at(-1)) : three(f.edges.at(-1))), 14)))];
}

function loss(l) {
  const most = Math.max(1e-9, ...l.parts.map((p) => Math.abs(p.loss.value ?? 0)));
  return h("div", { class: "card scroll" }, h("table", {}, heads("Part", "Worth", "Share of the change, with 90 %"), h("tbody", {}, l.parts.slice(0, 12).map((p) => h("tr", {},
    h("th", { scope: "row" }, p.what === "relation" ? "relation of inputs and truth" : p.what),
    h("td", {}, h("span", { class: "weight wide" }, width(h("i"), Math.abs(p.loss.value ?? 0) / most)), p.loss.value === null ? " unknown" : ` ${p.loss.value >= 0 ? "+" : ""}${three(p.loss.value)}`),
    h("td", {}, p.share.value === null ? "unknown" : `${percent(p.share.value)} (${percent(p.share.low)} to ${percent(p.share.high)})`))))),
  l.unseen.length ? h("p", { class: "soft small pad" }, `Rows unlike all of the reference: ${l.unseen.join(", ")}; what they are worth is in the relation.`) : null);
}

function versions(m) {
  const some = [...m.serving, ...m.previous];
  if (!some.length) return empty("No version was seen.");
  const least = Math.max(0, Math.min(...some.map((v) => v.accuracy.low ?? 1)) - 0.05);
  return h("div", { class: "card scroll" }, h("table", {}, heads("Version", "Served", "Rows", "Labelled", "Accuracy, with 95 %"), h("tbody", {}, some.map((v) => h("tr", {},
    h("th", { scope: "row" }, h("a", { href: `/models?${query({ model: m.model, version: v.version })}` }, v.version || "without a name")), h("td", {}, time(v.since), v.until === null ? ", serves" : ` for ${lasts(v.until - v.since)}`),
    h("td", {}, v.rows.toLocaleString("en")), h("td", {}, v.labelled.toLocaleString("en")), h("td", {}, bounds(v.accuracy, { low: least, ratio: (v.accuracy.value ?? 0) <= 1 })))))));
}
