/* Playbooks: how far each may go and what holds it there, how its runs turned out, why it did not act, what it would do. */

import { plan, reinstate, setMode } from "./acts.js";
import { ask, part, query } from "./daemon.js";
import { $, empty, fill, h, width } from "./dom.js";
import { press } from "./people.js";
import { gates, itself } from "./runs.js";
import { now, store } from "./store.js";
import { many, percent, verdictWords, words } from "./words.js";

const VERDICTS = ["helped", "no_effect", "harmed", "cannot_tell"];
const MODES = ["observe", "suggest", "approve", "auto"];
let chosen = "", found = "", answered = { key: "", got: null };

export const page = {
  title: "Playbooks",
  every: 8,
  wide: true,
  keeps: true,
  async load(_, asked) {
    const books = await ask("/api/playbooks");
    chosen = asked.get("id") || "";
    found = asked.get("search") || "";
    const book = books.find((b) => b.id === chosen), target = asked.get("target") || "", when = asked.get("time") || "";
    const [decisions, answer] = await Promise.all([
      book ? ask(`/api/decisions?${query({ playbook: book.id, limit: 12 })}`).then((all) => (all.every(itself) ? all : all.filter((d) => !itself(d)))) : [],
      book && target ? whyNot(book.id, target, when) : null,
    ]);
    return { books, book, decisions, answer, target, when };
  },
  name: (got) => got?.book?.id || "Playbooks",
  build(root, go) {
    const asked = new URLSearchParams(location.search);
    root.append(h("div", { class: "bar" }, h("h1", { tabindex: "-1" }, "Playbooks"), h("label", { class: "hidden", for: "book-search" }, "Search playbooks"),
      h("input", { id: "book-search", type: "search", placeholder: "Search: restart, gpu, drift", value: asked.get("search") || "", oninput: (event) => { history.replaceState(null, "", `/playbooks?${query({ search: event.target.value.trim(), id: chosen })}`); go(location.pathname + location.search); } }),
      h("p", { id: "count", class: "soft", role: "status" })),
    h("div", { class: "split" }, h("div", { id: "books", class: "card rows series-list", role: "region", "aria-label": "Playbooks" }, h("p", { class: "empty loading" }, "Looking…")), h("div", { id: "book" })));
    page.go = go;
  },
  draw({ books, book, decisions, answer, target, when }) {
    const terms = found.toLowerCase().split(/\s+/), some = books.filter((b) => terms.every((t) => `${b.id} ${b.title} ${b.target} ${b.causes.join(" ")}`.toLowerCase().includes(t)));
    $("count").textContent = `${many(books.length, "playbook")}, ${many(books.filter((b) => b.record.runs).length, "has", "have")} run`;
    fill($("books"), [some, chosen, found], () => (some.length ? some.map((b) => row(b)) : empty(books.length ? "No playbook has these words." : "No playbook is loaded.")));
    fill($("book"), [book, decisions, answer, target, when, store.me, Math.floor(now() / 30)], () => (book ? about(book, decisions, answer, target, when) : empty("Choose a playbook: how far it may go, why, its record, and why it did not act.")));
    $("book").parentElement.classList.toggle("chosen", Boolean(book));
  },
};

async function whyNot(id, target, when) {
  const key = `${id} ${target} ${when} ${Math.floor(now() / 15)}`;
  if (answered.key !== key) answered = { key, got: await ask(`/api/playbooks/${part(id)}/why-not?${query({ target, time: when })}`).catch((fault) => ({ fault })) };
  return answered.got;
}

function row(b) {
  return h("a", { class: "row", href: `/playbooks?${query({ id: b.id, search: found })}`, "data-line": true, "data-focus": b.id, "aria-current": b.id === chosen ? "true" : null },
    h("span", { class: "what" }, h("b", {}, b.title || b.id), h("small", {}, b.target ? `${b.id}, on a ${b.target}` : `${b.id}, not loaded now`)),
    h("span", { class: "value" }, h("span", { class: `chip mode-${b.mode}` }, b.mode), h("small", {}, record(b.record))));
}

const record = (t) => (t.runs ? VERDICTS.filter((v) => t[v]).map((v) => `${t[v]} ${words(v)}`).join(", ") : "never ran");

function about(b, decisions, answer, target, when) {
  const held = b.why.length > 0;
  return [
    h("header", {}, h("h2", { class: "big" }, b.title || b.id), h("p", { class: "chips" }, h("code", {}, b.id), b.owner ? h("span", { class: "soft" }, `owner ${b.owner}`) : null, h("span", { class: "soft" }, b.target ? `on a ${b.target}, for ${b.causes.join(", ") || "no cause of its own"}` : "not loaded now")),
      h("div", { class: "acts start" },
        b.target ? press("Plan a run", "run", `plan ${b.id}`, () => plan(b, [...new Set(decisions.map((d) => d.target.id))])) : null,
        b.target ? press("Set its mode", "mode", `mode ${b.id}`, () => setMode(b)) : null,
        b.limits.some((l) => l.by === "record") ? press("Reinstate", "reinstate", `reinstate ${b.id}`, () => reinstate(b)) : null)),
    h("h3", {}, "How far it may go"),
    h("div", { class: "card pad" }, h("ol", { class: "ladder", "aria-label": `It may go up to ${b.mode}` }, MODES.map((m) => h("li", { class: MODES.indexOf(m) <= MODES.indexOf(b.mode) ? "on" : "", "aria-current": m === b.mode ? "true" : null }, m))),
      h("p", {}, held ? "Held there by:" : `Nothing holds it below ${b.mode}.`),
      h("table", {}, h("tbody", {}, b.limits.map((l) => h("tr", { class: l.mode === b.mode ? "on" : "" }, h("th", { scope: "row" }, l.by), h("td", {}, l.mode), h("td", { class: "soft" }, l.reason)))))),
    h("h3", {}, "Its record"), tally(b),
    h("h3", {}, "Why did it not act?"), ask_(b, target, when), answer ? said(answer) : null,
    h("h3", {}, "What the guard said last"), decisions.length ? h("div", { class: "card pad" }, decisions.map((d, k) => gates(d, k === 0))) : empty("It was never asked about it: no incident had its cause."),
  ];
}

function tally(b) {
  const t = b.record;
  if (!t.runs) return empty("It has not run yet.");
  const bar = (one) => h("span", { class: "tally", role: "img", "aria-label": record(one) }, VERDICTS.filter((v) => one[v]).map((v) => width(h("i", { class: v, title: `${one[v]} ${verdictWords[v]}` }), one[v] / one.runs)));
  return h("div", { class: "card pad" }, bar(t), h("p", {}, `${many(t.runs, "run")}: ${record(t)}. `, t.success === null ? "Too few could be told from chance." : `It helps in at least ${percent(t.success)} of those that can be told (95 % sure).`),
    Object.keys(b.groups).length > 1 ? h("table", {}, h("tbody", {}, Object.entries(b.groups).map(([name, one]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, bar(one)), h("td", { class: "soft" }, record(one)))))) : null);
}

function ask_(b, target, when) {
  return h("form", { class: "bar low card pad", onsubmit: (event) => {
    event.preventDefault();
    const { whom, time } = event.target.elements;
    page.go(`/playbooks?${query({ id: b.id, search: found, target: whom.value.trim(), time: time.value.trim() })}`);
  } }, h("label", { for: "whom" }, "On"), h("input", { id: "whom", name: "whom", required: true, value: target, placeholder: `${b.target}, by name or id`, autocomplete: "off" }),
  h("label", { for: "time" }, "at"), h("input", { id: "time", name: "time", value: when, size: 30, placeholder: "now, 15m ago, 2026-11-23T14:00", autocomplete: "off" }), h("button", { type: "submit", class: "small" }, "Ask"));
}

function said(a) {
  if (a.fault) return empty(a.fault.whole || a.fault.message);
  return h("div", { class: "card pad", role: "status" }, a.text.map((line, k) => h("p", { class: k ? "pre" : "pre lead" }, line)), a.gates.length ? gates({ playbook: a.playbook, target: a.target, ts: a.decided ?? a.ts, allowed: a.gates.every((g) => g.passed), mode: a.mode, gates: a.gates }) : null,
    a.incident ? h("p", {}, h("a", { href: `/incidents/${a.incident}` }, a.incident)) : null);
}
