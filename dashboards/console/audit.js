/* The record: every entry, by kind, subject and words, a page at a time; and whether its chain holds. */

import { ask, query } from "./daemon.js";
import { $, empty, fill, h } from "./dom.js";
import { store } from "./store.js";
import { many, three, time } from "./words.js";

const KINDS = ["incident", "decision", "plan", "run", "intent", "acted", "approval", "cancel", "reason", "handoff", "change", "label", "correction", "silence", "snooze", "pause", "resume", "mode", "reinstate", "question", "reply", "press", "note", "told", "thread", "token", "refused", "daemon"];
const SINCE = [["", "all time"], ["1h", "the last hour"], ["24h", "the last day"], ["7d", "the last week"]];
const OF_INCIDENTS = new Set(["incident", "label", "correction", "snooze", "handoff"]);
const SHORT = 50000;
let go = () => {}, open = 0, checked = false;
const whole = new Map();
const read = (asked) => Object.fromEntries(["kind", "subject", "search", "since", "before"].map((k) => [k, asked.get(k) || ""]));

export const page = {
  title: "Audit",
  every: 10,
  wide: true,
  keeps: true,
  async load(_, asked) {
    const at = read(asked);
    return { at, got: await ask(`/api/journal?${query({ ...at, limit: 60 })}`) };
  },
  build(root, to) {
    go = to;
    const at = read(new URLSearchParams(location.search)), change = (more) => go(`/audit?${query({ ...read(new URLSearchParams(location.search)), before: "", ...more })}`);
    let waits = 0;
    const typed = (name) => (event) => { clearTimeout(waits); const value = event.target.value.trim(); waits = setTimeout(() => change({ [name]: value }), 300); };
    root.append(
      h("div", { class: "bar" }, h("h1", { tabindex: "-1" }, "Audit"),
        h("label", { class: "hidden", for: "words" }, "Search"), h("input", { id: "words", type: "search", placeholder: "Search words, people", value: at.search, oninput: typed("search") }),
        h("label", { for: "kind" }, "Kind"), h("select", { id: "kind", onchange: (e) => change({ kind: e.target.value }) }, h("option", { value: "" }, "any"), KINDS.map((k) => h("option", { value: k, selected: at.kind === k }, k))),
        h("label", { for: "subject" }, "About"), h("input", { id: "subject", type: "text", placeholder: "id", value: at.subject, oninput: typed("subject"), spellcheck: "false" }),
        h("label", { for: "since" }, "Since"), h("select", { id: "since", onchange: (e) => change({ since: e.target.value }) }, SINCE.map(([v, text]) => h("option", { value: v, selected: at.since === v }, text)))),
      h("div", { class: "bar low" }, h("button", { type: "button", class: "small", onclick: check }, "Check the chain"), h("p", { id: "chain", class: "soft", role: "status" }, "Every entry holds the hash of the one before: what was altered shows.")),
      h("div", { id: "entries" }, h("p", { class: "empty loading" }, "Looking…")), h("div", { id: "older", class: "acts start" }));
    checked = false;
  },
  draw({ at, got }) {
    // a long record is read whole only when a person asks for it
    if (!checked && store.status.journal_entries < SHORT) { checked = true; check(); }
    fill($("entries"), [at, got.entries, open, whole.has(open)], () => (got.entries.length ? h("div", { class: "card scroll", "data-scroll": "entries" }, h("table", { class: "journal" },
      h("thead", {}, h("tr", {}, ["Entry", "When", "Kind", "About", "By", "What"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", {}, got.entries.map((e) => [row(e, at, got), e.seq === open && whole.has(open) ? body(whole.get(open)) : null]))))
      : empty(at.kind || at.search || at.subject || at.since ? "No entry on this page fits; there may be older ones." : "Nothing was written yet.")));
    fill($("older"), [at, got.older], () => [at.before ? h("a", { class: "button small", href: `/audit?${query({ ...at, before: "" })}` }, "Newest") : null,
      got.older ? h("a", { class: "button small", href: `/audit?${query({ ...at, before: got.older })}` }, "Older") : h("span", { class: "soft" }, "This is where the record begins.")]);
  },
};

function row(e, at, got) {
  const link = OF_INCIDENTS.has(e.kind) ? h("a", { href: `/incidents/${e.subject}` }, e.subject) : h("a", { href: `/audit?${query({ ...at, subject: e.subject, before: "" })}` }, e.subject);
  return h("tr", { class: e.kind === "refused" ? "shut" : "" },
    h("td", {}, h("button", { type: "button", class: "quiet small", "data-line": true, "data-focus": `entry ${e.seq}`, "aria-expanded": String(e.seq === open), "aria-label": `Entry ${e.seq}, whole`, onclick: () => toggle(e.seq, { at, got }) }, String(e.seq))),
    h("td", { class: "when" }, time(e.ts)), h("td", {}, h("span", { class: "chip" }, e.kind)), h("td", { class: "id" }, link), h("td", {}, e.by), h("td", { class: "text" }, e.text));
}

async function toggle(seq, shown) {
  open = open === seq ? 0 : seq;
  if (open && !whole.has(seq)) whole.set(seq, await ask(`/api/journal/${seq}`));
  page.draw(shown);
}

const body = (e) => h("tr", { class: "whole" }, h("td", { colspan: 6 }, h("pre", { tabindex: "0" }, JSON.stringify(e.body, null, 2)), h("p", { class: "soft small" }, "hash ", h("code", {}, e.hash), " after ", h("code", {}, e.prev))));

async function check() {
  checked = true;
  $("chain").textContent = "Reading all of it…";
  try {
    const c = await ask("/api/journal/check");
    if (!$("chain")) return;
    $("chain").className = c.whole ? "good" : "fault";
    $("chain").textContent = c.whole ? `The chain of ${many(c.entries, "entry", "entries")} holds; its last hash is ${c.hash.slice(0, 16)}… (${three(c.took_s)} s).`
      : `The record is not as it was written: ${c.breaks.slice(0, 5).map((b) => `${b.entry ? `entry ${b.entry}: ` : ""}${b.problem}`).join("; ")}.`;
  } catch (fault) {
    if ($("chain")) $("chain").textContent = `Not checked: ${fault.whole || fault.message}.`;
  }
}
