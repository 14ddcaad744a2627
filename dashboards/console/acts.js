/* What people can do: each asks first, says what it will do, and names the plan that it means. */

import { ask, part, query } from "./daemon.js";
import { $, h } from "./dom.js";
import { act, confirmed, press, reason } from "./people.js";
import { store } from "./store.js";
import { words } from "./words.js";

const p = (...text) => h("p", {}, ...text);
const spans = [["15m", "15 minutes"], ["1h", "an hour"], ["4h", "4 hours"], ["24h", "a day"], ["7d", "a week"]];
const lasts = { name: "for", label: "For how long", kind: "choice", value: "1h", choices: spans };

/** Steps of a plan or a run, as they are now. */
export const steps = (some) => h("ol", { class: "steps" }, some.map((s) => h("li", { class: s.status || "planned" },
  h("span", {}, s.summary || words(s.use), (s.status || "planned") === "planned" && s.temporary ? " (put back later)" : ""),
  h("span", { class: "hidden" }, `: ${words(s.status || "planned")}`))));

const WOULD = { would: "", refused: "it can not: ", unknown: "no answer: ", later: "can be told only then: " };

/** What each step says it would do now, asked when somebody wants to know: nothing is done. */
function dryRun(path) {
  const said = h("div", { role: "status" });
  const tell = (...some) => said.replaceChildren(...some);
  const answer = (all) => h("ul", { class: "dry" }, all.map((w) => h("li", { class: w.status }, h("b", {}, words(w.use)), ` ${WOULD[w.status]}${w.text}`)));
  return h("div", {}, h("div", { class: "acts start" }, press("Dry run", "run", "dry-run", () => {
    tell(h("p", { class: "soft" }, "Asking each step what it would do…"));
    act(path, undefined, "GET").then((all) => tell(answer(all), h("p", { class: "soft small" }, "As the world is now. Nothing was done.")), (no) => tell(h("p", { class: "fault" }, no.whole || no.message)));
  }), h("span", { class: "soft small" }, "asks each step what it would do; nothing is done")), said);
}

// ---- runs

export function approve(r) {
  confirmed(r.title, [p(`On ${r.target.name}${r.incident ? `, for ${r.incident}` : ""}:`), steps(r.steps),
    r.expect.length ? p("Then it is checked: ", h("code", {}, r.expect.join(" and "))) : null,
    dryRun(`/api/runs/${part(r.id)}/dry-run`), h("p", { class: "soft small" }, `plan ${r.plan_hash.slice(0, 12)}`)],
  "Approve", () => act(`/api/runs/${part(r.id)}/approve`, { plan_hash: r.plan_hash }), { fields: [] });
}

export function deny(r, stop = false) {
  confirmed(stop ? `Stop: ${r.title}` : `Deny: ${r.title}`, p(stop ? "It stops at its next step and puts back what it did." : "Nothing will be done."),
    stop ? "Stop it" : "Deny", (v) => act(`/api/runs/${part(r.id)}/deny`, { reason: v.reason }), { stop: true });
}

export function undo(r) {
  confirmed(`Put back: ${r.title}`, [p("What it did is put back where its steps can be, and only where nobody has changed it since."), steps(r.steps)],
    "Put it back", (v) => act(`/api/runs/${part(r.id)}/undo`, { reason: v.reason }), { stop: true });
}

const planOf = (book, target) => `/api/playbooks/${part(book.id)}/plan?${query({ target })}`;

/** See the plan first; it is started as it was seen, or not at all. */
export function plan(book, targets = []) {
  confirmed(`Run: ${book.title || book.id}`, p("You see the plan before anything happens. All gates hold."), "Show the plan", async (v) => {
    const seen = await ask(planOf(book, v.target));
    setTimeout(() => start(book, v.target, seen), 0);
  }, { fields: [{ name: "target", label: `Which ${book.target}`, list: targets, hint: "An id, or a unique part of its name." }] });
}

function start(book, target, seen, changed = false) {
  const shut = seen.gates.filter((g) => !g.passed);
  confirmed(`${seen.title || book.id} on ${seen.target.name}`, [
    changed ? h("p", { class: "gates", role: "status" }, "The plan has changed since you looked, nothing was started. This is it now:") : null,
    steps([...seen.steps, ...seen.then]),
    seen.expect.length ? p("Then it is checked: ", h("code", {}, seen.expect.join(" and "))) : null,
    p(seen.incident ? `For ${seen.incident}${seen.cause ? `, ${seen.cause}` : ""}.` : "Nothing is known to be wrong with it."),
    seen.allowed ? null : h("p", { class: "gates" }, `The guard does not let it now: ${seen.closed}`),
    shut.length > 1 ? h("p", { class: "gates" }, `Shut: ${shut.map((g) => `${g.name} (${g.reason || g.value})`).join(", ")}`) : null,
    dryRun(`/api/playbooks/${part(book.id)}/dry-run?${query({ target: seen.target.id })}`), h("p", { class: "soft small" }, `plan ${seen.hash.slice(0, 12)}`)],
  "Run it", (v) => act(`/api/playbooks/${part(book.id)}/run`, { target: seen.target.id, plan_hash: seen.hash, reason: v.reason }).catch(async (no) => {
    const now = no.status === 409 ? await ask(planOf(book, target)) : seen;
    if (now.hash === seen.hash) throw no;
    setTimeout(() => start(book, target, now, true), 0);
    return "The plan has changed: look again";
  }), { stop: true });
}

// ---- incidents

export function ack(i) {
  confirmed("I have it", [p(i.title), p("Others see that you have taken it, and why. It holds until it is over.")], "I have it",
    (v) => act(`/api/incidents/${part(i.id)}/ack`, { reason: v.reason }));
}

export function snooze(i) {
  confirmed("Snooze", [p(i.title), p("Nothing is told of it until then, unless it gets worse. It is watched all the same.")], "Snooze",
    (v) => act(`/api/incidents/${part(i.id)}/snooze`, { for: v.for, reason: v.reason }), { fields: [lasts, reason] });
}

export function wake(i) {
  confirmed("Tell again", p("It is put off no longer: people are told of it from now on."), "Tell again",
    (v) => act(`/api/incidents/${part(i.id)}/snooze`, { for: "0", reason: v.reason }));
}

export function label(i, word) {
  const effect = word === "noise" ? "What was abnormal in it must be rarer from now on, for some weeks." : "What was abnormal in it may be more common again.";
  confirmed(word === "noise" ? "It was noise" : "It was real", p(`${i.title}. The alarm budget counts it. ${effect}`), "Say so",
    (v) => act(`/api/incidents/${part(i.id)}/label`, { label: word, note: v.note }), { fields: [{ name: "note", label: "A note (for the record)" }] });
}

export function blame(i, others) {
  confirmed("Not the cause", [p(`It says: ${i.cause_entity ? `${i.cause_entity.name}, ` : ""}${i.cause_words || i.cause}.`), p("What you say is kept, and weighs the next time.")], "Say so",
    (v) => act(`/api/incidents/${part(i.id)}/blame`, { right: v.right, note: v.note }),
    { fields: [{ name: "right", label: "What was it, if you know", kind: "choice", value: "", choices: [["", "not known"], ...others.map((c) => [c.kind, `${c.words} (${c.kind})`])] },
      { name: "note", label: "A note (for the record)" }] });
}

export function page(i) {
  confirmed("Call a person now", [p(i.title), p("Goes up the ladder of escalation from its first step, whatever the hour.")], "Call",
    (v) => act(`/api/incidents/${part(i.id)}/page`, { reason: v.reason }), { stop: true });
}

/** The post-mortem as Markdown: to be read, copied or saved. */
export async function report(i) {
  const r = await ask(`/api/incidents/${part(i.id)}/report`).catch((fault) => ({ title: "Post-mortem", markdown: fault.whole || fault.message }));
  const link = URL.createObjectURL(new Blob([r.markdown], { type: "text/markdown" }));
  $("text-title").textContent = `Post-mortem: ${r.title}`;
  $("text").textContent = r.markdown;
  Object.assign($("text-save"), { href: link, download: `${i.id}.md` });
  $("text-copy").onclick = async () => { await navigator.clipboard.writeText(r.markdown); $("say").textContent = "Copied"; };
  $("text-box").onclose = () => URL.revokeObjectURL(link);
  $("text-box").showModal();
}

// ---- quiet and stop

export function silence(target, name, cause = "") {
  confirmed(`Silence ${name}`, p("It is neither told of nor acted on until then; it is still watched."), "Silence",
    (v) => act("/api/silences", { target, for: v.for, cause: v.cause === "all" ? "" : cause, reason: v.reason }),
    { fields: [lasts, ...(cause ? [{ name: "cause", label: "For", kind: "choice", value: "this", choices: [["this", `${cause} only`], ["all", "any cause"]] }] : []), reason] });
}

export const unsilence = (s) => confirmed("End this silence", p(`${s.target}, by ${s.by}`), "End it", () => act(`/api/silences/${part(s.id)}`, undefined, "DELETE"), { fields: [] });

export function pauseAll() {
  if (store.status?.paused.some((x) => x.key === "*")) { resume("*"); return; }
  confirmed("Pause everything", p("It goes on watching and acts on nothing. Runs stop at their next step, until a person resumes."), "Pause",
    (v) => act("/api/pause", { reason: v.reason }), { stop: true });
}

export function resume(key) {
  confirmed(key === "*" ? "Let it act again?" : `Let it act on ${key} again?`, p("Playbooks may act again, within the mode and what is managed."), "Resume",
    () => act("/api/resume", { target: key }), { fields: [] });
}

// ---- playbooks

export function setMode(book) {
  confirmed(`Mode of ${book.id}`, p("A ceiling for this playbook, up to what its text and agent.yaml allow. It survives a restart."), "Set it",
    (v) => act(`/api/playbooks/${part(book.id)}/mode`, { mode: v.mode, reason: v.reason }),
    { fields: [reason, { name: "mode", label: "At most", kind: "choice", value: book.mode, choices: ["observe", "suggest", "approve", "auto"].map((m) => [m, m]) }] });
}

export function reinstate(book) {
  confirmed(`Reinstate ${book.id}`, p("It did harm, and you have looked at it. It may act again as far as its text and agent.yaml let it."), "Reinstate",
    (v) => act(`/api/playbooks/${part(book.id)}/reinstate`, { reason: v.reason }), { stop: true });
}

/** Answer a question of a run. */
export function answer(q) {
  const set = (f) => (f.kind === "yes_no" ? (f.default ? "yes" : "no") : String(f.default));
  const between = (f) => (f.low === null ? (f.high === null ? "" : `At most ${f.high}.`) : f.high === null ? `At least ${f.low}.` : `From ${f.low} to ${f.high}.`);
  // what has no default must be said: nothing stands there that looks like an answer
  const choices = (f) => [...(f.default === null ? [["", "choose"]] : []), ...(f.kind === "yes_no" ? ["yes", "no"] : f.choices).map((c) => [c, c])];
  confirmed("A run asks", p(q.text), "Answer", (v) => act(`/api/questions/${part(q.id)}/answer`, {
    values: Object.fromEntries(q.fields.filter((f) => v[f.name] !== "").map((f) => [f.name, f.kind === "yes_no" ? v[f.name] === "yes" : f.kind === "number" ? Number(v[f.name]) : v[f.name]])),
  }), { fields: q.fields.map((f) => ({ name: f.name, label: f.text || f.name, kind: { yes_no: "choice", choice: "choice", number: "number" }[f.kind] || "text",
    value: f.default === null ? "" : set(f), choices: choices(f), low: f.low, high: f.high, required: f.default === null, most: 2000, hint: between(f) })) });
}
