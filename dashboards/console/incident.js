/* One incident, with an address of its own: what, why, how it is known, what was done, what happened when. */

import { ack, blame, label, page as call, report, silence, snooze, wake } from "./acts.js";
import { chart, legend } from "./charts.js";
import { ask, part, query } from "./daemon.js";
import { $, empty, fill, h, section, svg, width } from "./dom.js";
import { drawMap } from "./map.js";
import { cause, needs } from "./now.js";
import { press } from "./people.js";
import { gates, itself, offered, run } from "./runs.js";
import { now, store } from "./store.js";
import { first, lasts, many, percent, severities, time, words } from "./words.js";

const EVENTS = 60;

export const page = {
  title: "Incident",
  every: 3, // charts that are looked at move
  name: (got) => got?.full.title,
  async load([id]) {
    const at = `/api/incidents/${part(id)}`;
    const [full, charts, graph] = await Promise.all([ask(at), ask(`${at}/charts`), ask(`${at}/graph`)]);
    const let_ = await Promise.all(full.run_views.slice(0, 8).map((r) => ask(`/api/runs/${part(r.id)}/decision`).catch(() => null)));
    return { full, charts, graph, decisions: decisions(full, let_) };
  },
  build(root) {
    root.append(
      h("nav", { class: "crumbs", "aria-label": "Where this is" }, h("a", { href: "/" }, "Now"), " / ", h("span", { id: "crumb" })),
      h("header", { id: "about" }, h("h1", { tabindex: "-1", "data-focus": "title" }, "Looking…")),
      h("div", { class: "columns" },
        h("div", {}, section("causes", "Why"), section("map", "Who is in it"), section("charts", "Evidence"), section("runs", "What was done")),
        h("div", { class: "side" }, section("timeline", "What happened when"))),
      section("decisions", "What the guard said"));
  },
  draw({ full, charts, graph, decisions: said }) {
    $("crumb").textContent = full.id;
    fill($("about"), [full, store.me, Math.floor(now() / 5)], () => about(full));
    fill($("causes"), [full.causes, full.rejected, full.hurts, full.logs_of, full.traces], () => causes(full));
    drawGraph(graph);
    evidence(full, charts);
    fill($("runs"), [full.run_views, store.me, full.run_views.some((r) => r.live || r.asks) && Math.floor(now() / 5)], () => (full.run_views.some((r) => !offered(r))
      ? h("div", { class: "card" }, full.run_views.filter((r) => !offered(r)).map((r) => run(r))) : empty(full.run_views.length ? "Nothing: it was suggested, and nobody took it up." : said.length ? "Nothing: see below what held each playbook back." : "Nothing: no playbook is meant for this.")));
    fill($("timeline"), [full.anomalies, full.changes, full.turns, full.run_views, full.decisions, full.called], () => timeline(full));
    $("decisions-part").hidden = !said.length;
    fill($("decisions"), said, () => h("div", { class: "card pad" }, said.map((d) => gates(d))));
  },
};

/** What let the runs act, and what was said of all others; that a run keeps its own kind away is no news. */
function decisions(i, let_) {
  const own = (d) => !d.allowed && i.run_views.some((r) => d.gates.some((g) => !g.passed && `${g.value} ${g.reason}`.includes(r.id)));
  const all = [...let_.filter(Boolean), ...i.decisions.filter((d) => !own(d))];
  const once = new Map(all.map((d) => [`${d.ts} ${d.playbook} ${d.target.id}`, d]));
  return [...once.values()].sort((a, b) => b.ts - a.ts);
}

function about(i) {
  const over = i.state === "resolved", top = i.causes[0];
  const chips = [
    h("span", { class: `chip ${over ? "resolved" : i.severity}` }, over ? { page: "resolved, users were hurt", warning: "resolved, was a warning", note: "resolved, was a note" }[i.severity] : severities[i.severity]),
    !over && i.state !== "open" ? h("span", { class: "chip" }, i.state) : null,
    i.acknowledged_by ? h("span", { class: "chip" }, `${first(i.acknowledged_by)} has it`) : null,
    i.reopened ? h("span", { class: "chip" }, `came back ${i.reopened}×`) : null,
    i.merged_into ? h("a", { class: "chip", href: `/incidents/${i.merged_into}` }, `part of ${i.merged_into}`) : null,
    !over && i.snoozed_until ? h("span", { class: "chip" }, `put off for ${lasts(i.snoozed_until - now())} by ${first(i.snoozed_by)}`) : null,
    i.labelled ? h("span", { class: "chip", title: i.labelled.text }, `${i.labelled.label}, says ${first(i.labelled.by)}`) : null,
  ];
  return [
    h("h1", { tabindex: "-1", "data-focus": "title" }, i.title),
    h("p", { class: "chips" }, chips, h("span", { class: "soft" }, over ? `${time(i.opened)} to ${time(i.resolved)}, it lasted ${lasts(i.resolved - i.opened)}` : `since ${time(i.opened)}, for ${lasts(now() - i.opened)}`)),
    h("p", { class: "lead" }, cause(i)),
    needs(i),
    i.called.length ? h("p", { class: "soft" }, "Called: ", i.called.map((c, k) => [k ? ", " : "", h("b", {}, c.way), ` at ${time(c.ts)}`]), !over && !i.acknowledged_by ? ". Nobody has taken it yet." : ".") : null,
    i.corrected ? h("p", { class: "soft" }, `Not the cause, says ${i.corrected.by}: ${i.corrected.text}.`) : null,
    i.labelled?.text ? h("p", { class: "soft" }, `${i.labelled.label}, by ${i.labelled.by}: ${i.labelled.text}.`) : null,
    h("div", { class: "acts start", role: "group", "aria-label": "What you can do" },
      !over && !i.acknowledged_by ? press("I have it", "ack", `ack ${i.id}`, () => ack(i), "go") : null,
      !over && i.snoozed_until ? press("Tell again", "ack", `wake ${i.id}`, () => wake(i)) : null,
      !over ? press("Snooze", "ack", `snooze ${i.id}`, () => snooze(i)) : null,
      !over && i.entities.length ? press("Silence", "silence", `silence ${i.id}`, () => silence(i.entities[0].id, i.entities[0].name, i.cause === "unknown" ? "" : i.cause)) : null,
      !over ? press("Call a person", "page", `page ${i.id}`, () => call(i)) : null,
      top && i.cause !== "unknown" ? press("Not the cause", "label", `blame ${i.id}`, () => blame(i, [...i.causes.slice(1), ...i.rejected])) : null,
      ["noise", "real"].filter((w) => w !== i.label).map((w) => press(`It was ${w}`, "label", `${w} ${i.id}`, () => label(i, w), "small quiet")),
      i.entities.length ? h("a", { class: "button small quiet", href: `/explore?${query({ start: i.opened - 60, end: i.resolved || "" })}` }, "What moved then") : null,
      h("button", { type: "button", class: "small quiet", "data-focus": "report", onclick: () => report(i) }, "Post-mortem")),
  ];
}

function causes(i) {
  if (!i.causes.length) return empty(i.state === "resolved" ? "It was over before a cause was named." : "Evidence is being gathered.");
  const [top, ...rest] = i.causes;
  return h("div", { class: "card pad" },
    h("h3", {}, `${top.entity.name}: ${top.words}`, h("span", { class: "soft" }, ` ${percent(top.probability)} sure`), i.low_confidence ? h("span", { class: "chip asks" }, "low confidence") : null),
    h("p", { class: "soft small" }, h("code", {}, top.kind), top.others.length ? ` with ${top.others.map((e) => e.name).join(", ")}` : ""),
    reasons(top.evidence),
    i.hurts.length ? h("p", {}, "It hurts ", i.hurts.map((e, k) => [k ? ", " : "", h("b", {}, e.name)]), ".") : null,
    i.logs_of.length ? h("p", { class: "soft" }, `Look into the logs of ${i.logs_of.map((e) => e.name).join(", ")}.`) : null,
    i.traces.length ? h("p", { class: "soft" }, "Requests that failed or were slow: ", i.traces.slice(0, 4).map((t) => [h("code", {}, t), " "])) : null,
    rest.length ? others("It may be, too", rest) : null,
    i.rejected.length ? others("What it is not", i.rejected) : null);
}

export function reasons(evidence) {
  const most = Math.max(1, ...evidence.map((e) => Math.abs(e.weight)));
  return h("ul", { class: "reasons" }, evidence.map((e) => {
    const what = e.weight > 0 ? "speaks for it" : e.weight < 0 ? "speaks against it" : "weighs nothing";
    const text = e.series ? h("a", { href: `/explore?${query({ series: e.series, start: e.onset ? e.onset - 600 : "" })}` }, e.text) : e.text;
    return h("li", {}, h("span", { class: `weight${e.weight > 0 ? "" : " against"}`, title: what }, width(h("i"), Math.abs(e.weight) / most)), h("span", {}, h("span", { class: "hidden" }, `${what}: `), text));
  }));
}

function others(title, some) {
  return [h("h4", {}, title), h("ul", { class: "reasons others" }, some.map((c) => {
    const reason = c.evidence.find((e) => e.weight < 0) || c.evidence[0];
    return h("li", {}, h("span", { class: "weight against", title: percent(c.probability) }, width(h("i"), c.probability)),
      h("span", {}, h("b", {}, `${c.words} (${percent(c.probability)})`), `, ${c.entity.name}: ${reason ? reason.text : "too little speaks for it"}`, h("span", { class: "hidden" }, ` ${c.kind}`)));
  }))];
}

function drawGraph(graph) {
  const some = graph.nodes.length > 1;
  $("map-part").hidden = !some;
  if (!some) return;
  const shape = [graph.parts, graph.path, graph.nodes.map((n) => [n.id, n.state]), graph.edges.map((e) => [e.src, e.dst])];
  fill($("map"), shape, () => {
    const place = svg("svg", { role: "group", "aria-label": `The way of the trouble: ${graph.path.map((pair) => pair.join(" and ")).join(", then ") || "no way is known"}` });
    drawMap(place, graph, { parts: graph.parts, path: graph.path, across: 5 });
    return h("div", { class: "card canvas", tabindex: "0", role: "region", "aria-label": "The graph, it can be scrolled", "data-scroll": "map" }, place);
  });
}

function evidence(i, charts) {
  const kinds = new Set(charts.flatMap((c) => c.marks.map((m) => m.kind)));
  fill($("charts"), [i.id, charts.map((c) => c.series), [...kinds]], () => (charts.length
    ? [h("div", { class: `charts${charts.length === 1 ? " one" : ""}` }, charts.map((c) => chart(`${i.id} ${c.series}`, c))), legend(kinds)]
    : empty("No chart: nothing of it is a curve, or its past is gone.")));
  for (const c of charts) chart(`${i.id} ${c.series}`, c);
}

// ---- what happened when

function timeline(i) {
  const events = [
    ...i.anomalies.flatMap((a) => [[a.onset, a.harm ? "bad" : "odd", a.entity.name, a.text, true], ...(a.end ? [[a.end, "end", a.entity.name, `${a.title} is as usual again`]] : [])]),
    ...i.changes.map((c) => [c.ts, c.ours ? "act" : "change", c.entity.name, `${c.kind}${c.before || c.after ? ` ${c.before || "?"} → ${c.after || "?"}` : ""}${c.by ? ` by ${c.ours ? "homeostat" : c.by}` : ""}${c.text ? `: ${c.text}` : ""}`]),
    ...i.turns.filter((t) => t.event !== "opened" || t.ts !== i.opened).map((t) => [t.ts, t.event === "resolved" ? "end" : "life", t.by ? first(t.by).replace(/^homeostat:.*/, "homeostat") : "homeostat", `${words(t.event)}${t.why ? `: ${t.why}` : ""}`]),
    // of what was suggested again and again, the first time, and who took it up
    ...i.run_views.filter((r, k, all) => r.mode === "suggest" && !all.slice(0, k).some((o) => o.mode === "suggest" && o.playbook === r.playbook && o.target.id === r.target.id)).map((r) => [r.started, "act", r.playbook, `suggested: ${r.title}, on ${r.target.name}`]),
    ...i.run_views.filter((r) => r.mode === "suggest" && r.state !== "suggested" && r.text).map((r) => [r.updated, "act", r.playbook, r.text]),
    ...i.run_views.filter((r) => r.mode !== "suggest").flatMap((r) => [[r.started, "act", r.playbook, `${r.title}, on ${r.target.name}`],
      ...r.steps.filter((s) => s.ended).map((s) => [s.ended, s.status === "failed" ? "bad" : "act", r.playbook, s.summary || `${words(s.use)}: ${words(s.status)}`]),
      ...(r.outcome ? [[r.updated, r.outcome.verdict === "harmed" ? "bad" : "end", r.playbook, `${words(r.outcome.verdict)}: ${r.outcome.summary}`]] : [])]),
    ...i.called.map((c) => [c.ts, "life", "homeostat", `called ${c.way}`]),
    ...i.decisions.filter((d) => !d.allowed && !itself(d)).map((d) => [d.ts, "held", d.playbook, `held back: ${d.gates.filter((g) => !g.passed).map((g) => g.name).join(", ") || "it only observes"}`]),
    [i.opened, "life", "homeostat", "incident opened"],
  ].sort((a, b) => a[0] - b[0]);
  const seen = events.filter((e, k) => !events.slice(0, k).some((o) => o[0] === e[0] && o[3] === e[3] && o[2] === e[2]));
  return [h("ol", { class: "timeline card" }, seen.slice(-EVENTS).map(([ts, kind, who, text]) => h("li", { class: kind }, h("time", { datetime: new Date(ts * 1000).toISOString() }, time(ts)), h("span", {}, h("b", {}, who), ` ${text}`)))),
    seen.length > EVENTS ? h("p", { class: "soft small" }, `${many(seen.length - EVENTS, "earlier event")} left out.`) : null,
    i.more ? h("p", { class: "soft small" }, `${many(i.more, "more series is", "more series are")} abnormal in it.`) : null,
    i.absorbed.length ? h("p", { class: "soft small" }, "It took in ", i.absorbed.map((id) => [h("a", { href: `/incidents/${id}` }, id), " "])) : null];
}
