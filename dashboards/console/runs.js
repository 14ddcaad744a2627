/* A run as it is shown everywhere: its steps, its proof, what it waits for; and the gates of the guard. */

import { approve, deny, steps, undo } from "./acts.js";
import { h } from "./dom.js";
import { press } from "./people.js";
import { now } from "./store.js";
import { first, lasts, stateWords, time, verdictWords, words } from "./words.js";

export function run(r, { short = false, why = false } = {}) {
  // a run that is at work keeps others of its kind away: that is no news of it
  // and of one that asks, that it has just been suggested; of one that is over they are about what came after it
  const o = r.outcome, shut = r.live || r.asks ? r.gates.filter((g) => !g.passed && !(r.asks && g.name === "cooldown") && ![g.value, g.reason].some((said) => (said || "").includes(r.id))) : [];
  const chip = o ? h("span", { class: `chip ${o.verdict}` }, verdictWords[o.verdict] || o.verdict, o.undone ? ", undone" : "")
    : h("span", { class: `chip ${r.asks ? "asks" : r.live ? "live" : r.state}` }, stateWords[r.state] || words(r.state));
  const left = r.approve && r.approve.expires ? r.approve.expires - now() : null;
  return h("div", { class: `run${r.asks ? " asks" : ""}` },
    h("div", { class: "line" }, h("b", {}, r.title), h("span", { class: "soft" }, `on ${r.target.name}`), chip,
      why && r.incident ? h("a", { href: `/incidents/${r.incident}`, class: "soft" }, r.incident) : null,
      h("span", { class: "soft" }, r.live || r.asks ? `for ${lasts(now() - r.started)}` : time(r.updated)),
      r.asks ? h("span", { class: "acts" }, press("Approve", "approve", `approve ${r.id}`, () => approve(r), "go", r.approve?.by), press("Deny", "deny", `deny ${r.id}`, () => deny(r), ""))
        : r.live ? h("span", { class: "acts" }, press("Stop and put back", "deny", `stop ${r.id}`, () => deny(r, true)))
          : r.undoable ? h("span", { class: "acts" }, press("Put it back", "undo", `undo ${r.id}`, () => undo(r))) : null),
    short && o ? null : steps(r.steps),
    o ? h("p", { class: "outcome" }, o.summary, o.against ? h("span", { class: "soft" }, ` (compared with ${words(o.against)})`) : null) : null,
    r.undoes ? h("p", { class: "soft" }, `Puts back what run ${r.undoes} did${r.by ? `, asked by ${first(r.by)}` : ""}.`) : null,
    r.undone_by ? h("p", { class: "soft" }, `Put back by run ${r.undone_by}.`) : null,
    !o && r.expect.length ? h("p", { class: "soft" }, "Proven by ", h("code", {}, r.expect.join(" and "))) : null,
    left !== null && left > 0 ? h("p", { class: "soft" }, `Without an answer it ${r.approve.on_timeout === "deny" ? "is denied" : "escalates"} in ${lasts(left)}.`) : null,
    o ? null : shut.map((g) => h("p", { class: "gates" }, `Gate ${g.name}: ${g.reason || g.value}`)),
    r.text && r.text !== r.title && (!o || (r.state === "denied" && r.text !== o.summary)) ? h("p", { class: "soft" }, r.text) : null);
}

/** Whether a run was never more than a suggestion: a newer one stands for it, or somebody took it up. */
export const offered = (r) => r.mode === "suggest" && !r.asks && (r.state === "suggested" || r.state === "done");

/** Whether a playbook is held back only because a run of its own is at work: that is no news of it. */
export function itself(d) {
  const shut = d.gates.filter((g) => !g.passed);
  return !d.allowed && shut.length > 0 && shut.every((g) => g.name === "busy" && (g.value || "").startsWith(`${d.playbook}-`));
}

/** All gates of one decision, shut ones first, each with its value and its limit. */
export function gates(d, open = false) {
  const shut = d.gates.filter((g) => !g.passed), rest = d.gates.filter((g) => g.passed);
  return h("details", { class: "decision", "data-open": `${d.playbook} ${d.target.id} ${d.ts}`, open },
    h("summary", {}, h("b", {}, d.playbook), h("span", { class: "soft" }, ` on ${d.target.name} `),
      h("span", { class: `chip ${d.allowed ? "helped" : "asks"}` }, d.allowed ? `allowed, mode ${d.mode}` : "held back"),
      h("span", { class: "soft" }, ` ${time(d.ts)}${shut.length ? `: ${shut.map((g) => `${g.name}, ${g.reason || g.value}`).join("; ")}` : d.allowed ? `: all ${d.gates.length} gates open` : ": it only observes"}`)),
    h("div", { class: "scroll" }, h("table", { class: "gate-table" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Gate"), h("th", { scope: "col" }, "Value"), h("th", { scope: "col" }, "Limit"), h("th", { scope: "col" }, "Says"))),
      h("tbody", {}, [...shut, ...rest].map((g) => h("tr", { class: g.passed ? "" : "shut" },
        h("th", { scope: "row" }, h("i", { class: `dot ${g.passed ? "fresh" : "blind"}` }), g.name, h("span", { class: "hidden" }, g.passed ? " open" : " shut")),
        h("td", {}, g.value), h("td", {}, g.limit), h("td", {}, g.reason)))))));
}
