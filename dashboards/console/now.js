/* The first page: what is wrong now, what waits for a person, how our eyes are, what is blind. */

import { answer, unsilence } from "./acts.js";
import { ask, part } from "./daemon.js";
import { $, empty, fill, h, section, svg, width } from "./dom.js";
import { press } from "./people.js";
import { offered, run } from "./runs.js";
import { now, store } from "./store.js";
import { cut, first, lasts, many, percent, say, severities, time } from "./words.js";

const SPARKS = 4, SHOWN = 30;
const sparks = new Map();
let told = null, all = false;

export const page = {
  title: "Now",
  every: 5,
  async load() {
    const [incidents, runs, silences, questions] = await Promise.all([
      ask("/api/incidents?state=all&limit=200"), ask("/api/runs?limit=30"), ask("/api/silences"), ask("/api/questions")]);
    const open = incidents.filter((i) => i.state !== "resolved");
    await Promise.all(open.filter((i) => i.severity !== "note" && !i.merged_into).slice(0, SPARKS).map(async (i) => {
      const why = await ask(`/api/incidents/${part(i.id)}/why`).catch(() => null);
      if (why) sparks.set(i.id, why.charts[0]);
    }));
    return { incidents, open, runs, silences, questions };
  },
  build(root) {
    all = false;
    root.append(
      h("section", { class: "head", "aria-label": "In one look" }, h("h1", { id: "verdict", tabindex: "-1" }, "Looking…"), h("p", { id: "verdict-more", class: "soft" }), h("dl", { id: "facts", class: "facts" })),
      h("div", { id: "asks" }), section("incidents", "Incidents"), section("runs", "Runs"), section("sources", "What we see"), section("silences", "Silences"), section("past", "Over"));
    $("incidents").append(h("p", { class: "empty loading" }, "Looking…"));
  },
  draw({ incidents, open, runs, silences, questions }) {
    const s = store.status, over = incidents.filter((i) => i.state === "resolved");
    verdict(s, open.filter((i) => i.needs_you && !i.merged_into).length);
    announce(open);
    const minute = Math.floor(now() / 10);
    fill($("facts"), [s.budget, s.mode, s.manages, s.usage.series], () => facts(s));
    const asking = runs.filter((r) => r.asks);
    fill($("asks"), [asking, questions, store.me, minute], () => (asking.length + questions.length
      ? h("section", { "aria-labelledby": "asks-title" }, h("h2", { id: "asks-title" }, "Waits for you"), h("div", { class: "card" }, questions.map(question), asking.map((r) => run(r, { why: true })))) : []));
    const some = all ? open : open.slice(0, SHOWN);
    fill($("incidents"), [some, open.length, minute, some.map((i) => sparks.get(i.id)?.data[0].at(-1))], () => (open.length ? [
      h("div", { class: "card rows" }, some.map(line)),
      open.length > some.length ? h("p", {}, h("button", { type: "button", class: "small", "data-focus": "more", onclick: () => { all = true; page.draw({ incidents, open, runs, silences, questions }); } }, `Show all ${open.length}`)) : null,
    ] : empty(s.ready ? "Nothing is wrong that we can see." : "Looking around.")));
    const rest = runs.filter((r) => !r.asks && !offered(r)).slice(0, 8);
    fill($("runs"), [rest, store.me, minute], () => (rest.length ? h("div", { class: "card" }, rest.map((r) => run(r, { short: true }))) : empty("No playbook has run yet.")));
    fill($("sources"), s.sources.map((x) => [x.name, x.state, x.error, x.series, x.stretched, x.impossible, x.learning && [x.learning.ready, Math.round(x.learning.ready_in_s / 5)], x.state === "blind" && Math.round((x.age_s || 0) / 10)]), () => sources(s.sources));
    $("silences-part").hidden = !silences.length;
    fill($("silences"), [silences, store.me, minute], () => h("div", { class: "card rows" }, silences.map((x) => h("div", { class: "row flat" },
      h("b", {}, x.target), x.cause ? h("span", { class: "chip" }, x.cause) : null, h("span", { class: "soft" }, `for ${lasts(x.until - now())} more, by ${first(x.by)}${x.reason ? `: ${x.reason}` : ""}`),
      h("span", { class: "acts" }, press("End it", "silence", `unsilence ${x.id}`, () => unsilence(x)))))));
    fill($("past"), [over.slice(0, SHOWN), Math.floor(now() / 60)], () => (over.length ? h("div", { class: "card rows" }, over.slice(0, SHOWN).map(line)) : empty("No incident has ended yet.")));
  },
};

function verdict(s, needed) {
  const c = s.counts, blind = s.sources.filter((x) => x.state === "blind").length, learning = s.sources.filter((x) => x.learning && !x.learning.ready).length;
  document.querySelector(".head").classList.toggle("harm", c.page > 0);
  $("verdict").textContent = !s.ready ? "Starting: no source has answered yet"
    : c.page ? `${many(c.page, "incident hurts", "incidents hurt")} users`
    : c.open ? `${many(c.open, "open incident")}, nobody is hurt`
    : blind || learning ? "Nothing is wrong so far" : "All is well"; // what we do not see is not well
  $("verdict-more").textContent = [
    c.runs_asking ? `${many(c.runs_asking, "run waits", "runs wait")} for a person` : "",
    needed ? `${many(needed, "incident needs", "incidents need")} a person` : "",
    c.runs_live - c.runs_asking > 0 ? `${many(c.runs_live - c.runs_asking, "run")} at work` : "",
    blind ? `blind at ${many(blind, "source")}` : "",
    learning ? `${many(learning, "source is", "sources are")} still learning` : "",
  ].filter(Boolean).join(", ");
}

function facts(s) {
  const b = s.budget, fact = (name, value, more) => h("div", {}, h("dt", {}, name), h("dd", {}, value, more ? h("small", {}, ` ${more}`) : null));
  return [
    fact("False pages this week", `${b.false_last_week}`, `of ${many(b.pages_last_week, "page")}; promised at most ${b.promised_per_week}`),
    fact("False pages measured", b.pages.high === null ? "not known yet" : `${b.pages.low.toPrecision(2)} to ${b.pages.high.toPrecision(2)} a week`, b.pages.high === null ? "it takes a day of watching" : b.signals.length ? `labels changed ${b.signals.length} signals` : ""),
    fact("May act on", s.manages ? many(s.manages, "kind of target", "kinds of targets") : "nothing", s.manages ? `up to ${s.mode}` : "it only watches"),
    fact("Watches", `${s.usage.series ?? s.sources.reduce((n, x) => n + x.series, 0)} series`, `from ${many(s.sources.length, "source")}`),
  ];
}

function announce(open) {
  const known = new Set(open.map((i) => i.id));
  if (told) for (const i of open) if (!told.has(i.id)) $("say").textContent = `New incident: ${i.title}`;
  told = known;
}

/** One incident in a line; all of it is a link to its page. */
function line(i) {
  const over = i.state === "resolved", c = over ? null : sparks.get(i.id);
  return h("a", { class: `row incident ${over ? "over" : i.severity}`, href: `/incidents/${i.id}`, "data-line": true, "data-focus": i.id },
    h("span", { class: "what" }, h("b", { class: "title" }, i.title), h("span", { class: "cause" }, cause(i)), needs(i)),
    c ? spark(c) : null,
    h("span", { class: "meta" }, h("span", { class: `chip ${over ? "resolved" : i.severity}` }, over ? "resolved" : severities[i.severity]),
      i.label ? h("span", { class: "chip" }, i.label) : null, i.merged_into ? h("span", { class: "chip" }, `part of ${i.merged_into}`) : null, i.state === "mitigated" ? h("span", { class: "chip" }, i.state) : null,
      !over && i.snoozed_until ? h("span", { class: "chip" }, `put off for ${lasts(i.snoozed_until - now())}`) : null,
      !over && i.called.length ? h("span", { class: "chip" }, `called ${many(new Set(i.called.map((c) => c.way)).size, "way")}`) : null,
      !over && i.acknowledged_by ? h("span", { class: "chip" }, `${first(i.acknowledged_by)} has it`) : null,
      i.reopened ? h("span", { class: "chip" }, `came back ${i.reopened}×`) : null,
      h("span", { class: "when" }, over ? `${time(i.opened)}, ${lasts(i.resolved - i.opened)}` : `for ${lasts(now() - i.opened)}`)));
}

/** Why people are needed: what homeostat may do is done. */
export const needs = (i) => (i.state !== "resolved" && i.needs_you ? h("span", { class: "needs" }, h("b", {}, "Needs you: "), i.needs_you) : null);

export function cause(i) {
  if (!i.cause) return i.state === "resolved" ? "It was over before a cause was named." : "Evidence is being gathered; the diagnosis comes in a moment.";
  if (i.cause === "unknown") return i.cause_words;
  return [h("b", {}, i.cause_entity.name), `: ${i.cause_words} (${percent(i.probability)} sure${i.low_confidence ? ", low confidence" : ""})`];
}

/** A small curve: what speaks most, at a glance. */
function spark(c) {
  const W = 132, H = 30, [ts, values] = c.data, known = values.filter((v) => v !== null);
  if (known.length < 2) return null;
  const low = Math.min(...known), span = Math.max(...known) - low || 1, t0 = ts[0], wide = ts.at(-1) - t0 || 1;
  let d = "", pen = false;
  ts.forEach((t, k) => {
    if (values[k] === null) { pen = false; return; }
    d += `${pen ? "L" : "M"}${(((t - t0) / wide) * W).toFixed(1)} ${(H - 2 - ((values[k] - low) / span) * (H - 4)).toFixed(1)}`;
    pen = true;
  });
  return h("span", { class: "spark" }, svg("svg", { viewBox: `0 0 ${W} ${H}`, width: W, height: H, role: "img", "aria-label": `${c.title}: ${say(known.at(-1), c.unit)}` }, svg("path", { d })), h("small", {}, cut(c.title, 22)));
}

function question(q) {
  return h("div", { class: "run asks" }, h("div", { class: "line" }, h("b", {}, q.text), h("span", { class: "soft" }, `${q.target}, for ${lasts(q.until - now())} more`),
    h("span", { class: "acts" }, press("Answer", "approve", `answer ${q.id}`, () => answer(q), "go", q.role))));
}

function sources(some) {
  const order = { blind: 0, waiting: 2, fresh: 1 };
  return h("div", { class: "sources" }, [...some].sort((a, b) => order[a.state] - order[b.state] || a.name.localeCompare(b.name)).map(source));
}

function source(x) {
  const learns = x.learning && !x.learning.ready, kind = x.state === "blind" ? "blind" : learns ? "learning" : x.state;
  const age = x.age_s === null ? "never answered" : x.state === "blind" ? `silent for ${lasts(x.age_s)}` : `${x.series || x.name.endsWith(".feed") ? "" : "nothing of it here, asked "}every ${lasts(x.interval_s)}${x.stretched ? ", stretched" : ""}`;
  const done = learns ? x.learning.rows / (x.learning.rows + x.learning.ready_in_s / Math.max(x.interval_s, 1)) : 0;
  return h("div", { class: `source ${kind}` },
    h("div", { class: "line" }, h("i", { class: `dot ${kind}` }), h("b", {}, x.name), h("span", { class: "end" }, x.series ? h("a", { href: `/explore?search=${part(x.name)}`, title: "Its series" }, `${x.series} series`) : "")),
    h("p", {}, x.state === "blind" ? `blind, ${age}` : x.state === "waiting" ? `waiting: ${x.error || age}` : age, x.impossible ? `, ${many(x.impossible, "impossible value")} refused` : ""),
    x.state === "blind" && x.error ? h("p", {}, x.error) : null,
    learns ? [h("p", {}, `learning since ${x.learning.since ? time(x.learning.since) : "now"}, ready in ${lasts(x.learning.ready_in_s)}`),
      h("div", { class: "meter", role: "progressbar", "aria-valuenow": Math.round(100 * done), "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": `${x.name} learns` }, width(h("i"), done))] : null);
}
