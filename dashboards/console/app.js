/* The console's first page: what is wrong now, why, what is done about it, and what waits for you.
   No framework, no inline script, nothing from elsewhere: the page is built from /api and kept fresh by /api/events. */
"use strict";

const $ = (id) => document.getElementById(id);
const state = { status: null, incidents: [], runs: [], details: new Map(), open: new Set(), closed: new Set(), charts: new Map(), me: null };

/* ---------------------------------------------------------------- small tools */

/** Make an element: h("p", {class: "soft"}, "text", child). Text is never parsed as HTML. */
function h(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return made;
}

/** Put children into a place only when what they show has changed: focus and scroll stay. */
function fill(place, key, make) {
  if (place.dataset.key === key) return false;
  place.dataset.key = key;
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  place.replaceChildren(...[make()].flat());
  if (focused) place.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
  return true;
}

const now = () => (state.status ? state.status.now + (performance.now() - state.stamp) / 1000 : Date.now() / 1000);

function lasts(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min` + (s < 600 && s % 60 ? ` ${s % 60} s` : "");
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

const time = (ts) => {
  const when = new Date(ts * 1000), day = when.toDateString() === new Date(now() * 1000).toDateString();
  return (day ? "" : when.toLocaleDateString([], { month: "short", day: "numeric" }) + " ") + when.toLocaleTimeString([], { hour12: false });
};

const three = (v) => Number(v.toPrecision(3)).toString();
function say(value, unit) {
  if (value === null || value === undefined) return "unknown";
  const size = Math.abs(value);
  if (unit === "ratio") return `${three(value * 100)} %`;
  if (unit === "seconds") return size === 0 ? "0" : size < 1 ? `${three(value * 1000)} ms` : size < 100 ? `${three(value)} s` : lasts(value);
  if (unit === "bytes" || unit === "bytes_per_second") {
    const tail = unit === "bytes" ? "" : "/s";
    for (const [name, of] of [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) if (size >= of) return `${three(value / of)} ${name}${tail}`;
    return `${three(value)} B${tail}`;
  }
  const tail = { celsius: " °C", watts: " W", hertz: " Hz", per_second: "/s" }[unit] || "";
  return size < 1e5 ? three(value) + tail : Math.round(value).toLocaleString("en") + tail;
}

const band = (low, high, unit) =>
  low === null && high === null ? "" : low === null ? `at most ${say(high, unit)}` : high === null ? `at least ${say(low, unit)}` : `${say(low, unit)} to ${say(high, unit)}`;

const percent = (p) => `${Math.round(p * 100)} %`;
const words = (text) => text.replaceAll("_", " ");

/* ---------------------------------------------------------------- the daemon */

class Refusal extends Error {
  constructor(status, body) {
    super(body.error || `the daemon answered ${status}`);
    this.status = status;
    this.remedy = body.remedy || "";
  }
}

const token = () => sessionStorage.getItem("token") || "";
const headers = () => (token() ? { Authorization: `Bearer ${token()}` } : {});

async function ask(path, method = "GET", body = undefined) {
  const answer = await fetch(path, {
    method, headers: { ...headers(), ...(body ? { "Content-Type": "application/json" } : {}) },
    body: body ? JSON.stringify(body) : undefined, cache: "no-store", credentials: "omit",
  });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refusal(answer.status, said);
  return said;
}

/** Do something that needs a role; asks for a token when one is missing, then goes on. */
async function act(path, body, method = "POST") {
  for (;;) {
    try {
      return await ask(path, method, body);
    } catch (refusal) {
      if (refusal.status !== 401 || !(await signIn(token() ? refusal.message : ""))) throw refusal;
    }
  }
}

function signIn(fault) {
  const box = $("token-box");
  $("token-fault").textContent = fault || "";
  $("token").value = "";
  $("token-forget").hidden = !token();
  return new Promise((done) => {
    let used = false;
    box.querySelector("form").onsubmit = () => {
      used = $("token").value.trim() !== "";
      if (used) sessionStorage.setItem("token", $("token").value.trim());
    };
    box.onclose = () => { whoAmI(); done(used); };
    box.showModal();
    $("token").focus();
  });
}

async function whoAmI() {
  try {
    state.me = await ask("/api/me");
  } catch (refusal) {
    state.me = null;
  }
  $("who").textContent = token() && state.me ? `${state.me.name} (${state.me.role})` : "Sign in";
}

/** Ask a person before something is done; `go` may refuse, and the box then says why. */
function confirmed(title, body, label, go, { reason = true, stop = false } = {}) {
  const box = $("ask-box");
  $("ask-title").textContent = title;
  $("ask-body").replaceChildren(...[body].flat());
  $("ask-go").textContent = label;
  $("ask-go").className = stop ? "stop" : "go";
  $("reason").hidden = $("reason-label").hidden = !reason;
  $("reason").value = "";
  $("ask-fault").textContent = "";
  $("ask-go").disabled = false;
  box.querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    $("ask-go").disabled = true;
    try {
      await go($("reason").value.trim());
      box.close();
      refresh();
    } catch (refusal) {
      $("ask-fault").textContent = refusal.message + (refusal.remedy ? `: ${refusal.remedy}` : "");
      $("ask-go").disabled = false;
    }
  };
  box.showModal();
}

/* ---------------------------------------------------------------- fresh data */

let asking = false, again = false;
async function refresh() {
  if (asking) { again = true; return; }
  asking = true;
  try {
    const [status, incidents, runs] = await Promise.all([ask("/api/status"), ask("/api/incidents?state=all&limit=40"), ask("/api/runs?limit=30")]);
    Object.assign(state, { status, incidents, runs, stamp: performance.now() });
    for (const i of incidents) if (i.state !== "resolved" && i.severity === "page" && !state.closed.has(i.id)) state.open.add(i.id);
    const known = new Set(incidents.map((i) => i.id));
    for (const id of [...state.open]) if (!known.has(id)) state.open.delete(id);
    await Promise.all([...state.open].map(detail));
    announce();
    draw();
    linked(true);
  } catch (refusal) {
    if (refusal.status === 401) { linked(false, "needs a token"); if (!$("token-box").open) signIn(refusal.message).then((used) => used && refresh()); }
    else linked(false);
  } finally {
    asking = false;
    if (again) { again = false; setTimeout(refresh, 50); }
  }
}

async function detail(id) {
  const [full, charts] = await Promise.all([ask(`/api/incidents/${encodeURIComponent(id)}`), ask(`/api/incidents/${encodeURIComponent(id)}/charts`)]);
  state.details.set(id, { full, charts });
}

let soon = 0;
const later = (ms = 300) => { clearTimeout(soon); soon = setTimeout(refresh, ms); };

function linked(yes, text) {
  document.querySelector("#link .dot").className = `dot ${yes ? "live" : "lost"}`;
  $("link-text").textContent = yes ? "live" : text || "not connected";
}

/** Follow events; fetch and not EventSource, because only fetch can carry the token. */
async function follow() {
  for (;;) {
    try {
      const stream = await fetch("/api/events", { headers: headers(), cache: "no-store", credentials: "omit" });
      if (!stream.ok) throw new Error(stream.status);
      await refresh();
      const reader = stream.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        const parts = text.split("\n\n");
        text = parts.pop();
        for (const part of parts) heard(part);
      }
    } catch (error) {
      linked(false);
    }
    await new Promise((wake) => setTimeout(wake, 3000));
    refresh();
  }
}

function heard(part) {
  const kind = part.match(/^event: (.*)$/m)?.[1];
  if (kind === "tick") { linked(true); tick(); } else if (kind) later();
}

let ticks = 0;
function tick() {
  ticks += 1;
  const every = state.open.size ? 3 : 5; // charts that are looked at move, the rest may wait
  if (document.visibilityState === "visible" && ticks % every === 0) refresh();
}

let told = null;
function announce() {
  const open = new Set(state.incidents.filter((i) => i.state !== "resolved").map((i) => i.id));
  if (told) for (const i of state.incidents) if (open.has(i.id) && !told.has(i.id)) $("say").textContent = `New incident: ${i.title}`;
  told = open;
}

/* ---------------------------------------------------------------- drawing the page */

function draw() {
  const s = state.status, c = s.counts;
  const open = state.incidents.filter((i) => i.state !== "resolved");
  const over = state.incidents.filter((i) => i.state === "resolved");
  document.title = (c.page ? `(${c.page}) ` : "") + `homeostat ${s.host}`;
  $("host").textContent = s.host;
  $("mode").hidden = false;
  $("mode").textContent = `mode ${s.mode}`;
  $("mode").title = s.manages ? "How far any playbook may go" : "It acts on nothing: manages: is empty";
  const blind = s.sources.filter((x) => x.state === "blind").length;
  const learning = s.sources.filter((x) => x.learning && !x.learning.ready).length;
  document.querySelector(".head").classList.toggle("harm", c.page > 0);
  $("verdict").textContent = !s.ready ? "Starting: no source has answered yet"
    : c.page ? (c.page === 1 ? "1 incident hurts users" : `${c.page} incidents hurt users`)
    : c.open ? `${c.open} open ${c.open === 1 ? "incident" : "incidents"}, nobody is hurt`
    : blind || learning ? "Nothing is wrong so far" : "All is well"; // what we do not see is not well
  $("verdict-more").textContent = [
    c.runs_asking ? `${c.runs_asking} ${c.runs_asking === 1 ? "run waits" : "runs wait"} for a person` : "",
    c.runs_live - c.runs_asking > 0 ? `${c.runs_live - c.runs_asking} at work` : "",
    blind ? `blind at ${blind} ${blind === 1 ? "source" : "sources"}` : "",
    learning ? `still learning at ${learning}` : "",
  ].filter(Boolean).join(", ");
  fill($("facts"), JSON.stringify([s.budget, s.mode, s.manages, s.silences, s.usage.series]), () => facts(s));
  paused(s);
  const faults = [...s.faults, ...(s.journal_pending ? [`the journal can not be written, ${s.journal_pending} entries wait`] : [])];
  $("faults").hidden = !faults.length;
  $("faults").textContent = faults.join("; ");
  list($("incidents"), open, incident, () => h("p", { class: "well" }, s.ready ? "Nothing is wrong that we can see." : "Looking around."));
  list($("past"), over, incident, () => h("p", { class: "soft" }, "No incident has ended yet."));
  runs();
  fill($("sources"), JSON.stringify(s.sources.map((x) => [x.name, x.state, x.error, x.series, x.learning && Math.round(x.learning.ready_in_s / 5), x.state === "blind" && Math.round((x.age_s || 0) / 10)])), () => s.sources.map(source));
  $("version").textContent = `homeostat ${s.version}, up ${lasts(s.now - s.started)}.`;
  $("cost").textContent = s.usage.rss_bytes ? `It costs ${say(s.usage.rss_bytes, "bytes")} of memory and has written ${s.journal_entries} entries.` : "";
}

function facts(s) {
  const b = s.budget, fact = (name, value, more) => h("div", {}, h("dt", {}, name), h("dd", {}, value, more ? h("small", {}, ` ${more}`) : null));
  return [
    fact("False pages this week", `${b.false_last_week}`, `of ${b.pages_last_week} pages; promised at most ${b.promised_per_week}`),
    fact("False pages measured", b.pages.high === null ? "not known yet" : `${b.pages.low.toPrecision(2)} to ${b.pages.high.toPrecision(2)} a week`, b.pages.high === null ? "it takes a day of watching" : b.signals.length ? `labels changed ${b.signals.length} signals` : ""),
    fact("May act on", s.manages ? `${s.manages} ${s.manages === 1 ? "kind of target" : "kinds of targets"}` : "nothing", s.manages ? `up to ${s.mode}` : "it only watches"),
    fact("Watches", `${s.usage.series ?? s.sources.reduce((n, x) => n + x.series, 0)} series`, ""),
    s.silences ? fact("Silences", `${s.silences}`, "") : null,
  ].filter(Boolean);
}

function paused(s) {
  const place = $("paused"), all = s.paused.find((p) => p.key === "*");
  place.hidden = !s.paused.length;
  $("pause").hidden = Boolean(all);
  fill(place, JSON.stringify(s.paused), () => s.paused.map((p) => h("span", {},
    h("strong", {}, p.key === "*" ? "Everything is paused. " : `${p.key} is paused. `),
    p.by ? `By ${p.by}` : "By the file PAUSED", p.reason ? `: ${p.reason} ` : " ",
    h("button", { type: "button", class: "small", "data-focus": `resume ${p.key}`, onclick: () => resume(p.key) }, "Resume"))));
}

/** Keep one element an item, in order; an item is drawn anew only when it has changed. */
function list(place, items, make, empty) {
  const have = new Map([...place.children].filter((e) => e.dataset.id).map((e) => [e.dataset.id, e]));
  if (!items.length) { fill(place, "empty", empty); return; }
  if (place.dataset.key === "empty") place.replaceChildren();
  place.dataset.key = "list";
  for (const [id, element] of have) if (!items.some((i) => i.id === id)) { forget(id); element.remove(); }
  items.forEach((item, at) => {
    const element = have.get(item.id) || h("article", { "data-id": item.id });
    if (place.children[at] !== element) place.insertBefore(element, place.children[at] || null);
    make(element, item); // when it is in its place: charts ask how wide they are
  });
}

function incident(element, i) {
  const open = state.open.has(i.id), over = i.state === "resolved";
  element.className = `card ${i.severity}${over ? " over" : ""}`;
  if (!element.firstChild) {
    element.append(h("button", { type: "button", class: "line", "data-focus": i.id, onclick: () => toggle(i.id) }), h("div", { class: "body", hidden: true }));
  }
  const [line, body] = element.children;
  line.setAttribute("aria-expanded", String(open));
  const since = over ? `${time(i.opened)}, it lasted ${lasts(i.resolved - i.opened)}` : `for ${lasts(now() - i.opened)}`;
  fill(line, JSON.stringify([i, since]), () => [
    h("h3", {}, i.title),
    h("span", { class: "meta" }, h("span", { class: `chip ${over ? "resolved" : i.severity}` }, over ? "resolved" : i.severity === "page" ? "hurts users" : i.severity),
      i.merged_into ? h("span", { class: "chip" }, `part of ${i.merged_into}`) : null,
      i.state === "mitigated" ? h("span", { class: "chip" }, i.state) : null,
      !over && i.acknowledged_by ? h("span", { class: "chip" }, `${i.acknowledged_by.split(" (")[0]} has it`) : null,
      i.reopened ? h("span", { class: "chip" }, `came back ${i.reopened}×`) : null, h("span", {}, since)),
    h("span", { class: "cause" }, ...cause(i)),
  ]);
  body.hidden = !open;
  const got = state.details.get(i.id);
  if (open && got) {
    const { full, charts } = got;
    fill(body, JSON.stringify([full, state.runs.filter((r) => r.incident === i.id), charts.map((c) => [c.series, c.low, c.high])]), () => inside(full, charts));
    plots(body, i.id, charts);
  }
}

function cause(i) {
  if (!i.cause) return ["Evidence is being gathered; the diagnosis comes in a moment."];
  if (i.cause === "unknown") return [i.cause_words];
  return [h("b", {}, i.cause_entity.name), `: ${i.cause_words} (${percent(i.probability)} sure${i.low_confidence ? ", low confidence" : ""})`];
}

function inside(full, charts) {
  const top = full.causes[0];
  const live = state.runs.filter((r) => r.incident === full.id);
  const ran = live.length ? live : full.run_views;
  const held = full.decisions.filter((d) => !d.allowed).slice(-3);
  return [
    ran.length ? h("div", {}, h("h4", {}, "What is done"), ran.map(run)) : null,
    held.length && !ran.some((r) => r.live) ? h("div", {}, h("h4", {}, "Held back"), held.map(gate)) : null,
    charts.length ? h("div", {}, h("h4", {}, "Evidence"),
      h("div", { class: `charts${[2, 4].includes(charts.length) ? " even" : ""}` }, charts.map((c) => h("figure", { class: "chart", "data-series": c.series },
        h("figcaption", {}, h("b", {}, c.title), h("span", {}, c.subject)), h("div", { class: "plot", role: "img" })))),
      h("p", { class: "legend" }, h("span", {}, h("i", {}), "expected"), h("span", {}, h("i", { class: "mark" }), "it began"),
        charts.some((c) => c.marks.some((m) => m.kind === "change")) ? h("span", {}, h("i", { class: "mark change" }), "changed") : null,
        charts.some((c) => c.marks.some((m) => m.kind === "act")) ? h("span", {}, h("i", { class: "mark act" }), "homeostat acted") : null)) : null,
    full.logs_of.length ? h("p", {}, `No metric says why: look at the logs of ${full.logs_of.map((e) => e.name).join(", then ")}.`) : null,
    full.more || full.also.length > 1 ? h("p", { class: "soft" }, `${full.anomalies.length} abnormal series${full.more ? ` and ${full.more} more` : ""}, shared by ${full.also.length + 1}.`) : null,
    top && top.kind !== "unknown" ? h("div", {}, h("h4", {}, `Why ${top.entity.name} (${top.kind})`), reasons(top.evidence)) : null,
    top && top.kind === "unknown" && top.evidence.length ? h("div", {}, h("h4", {}, "What the metrics say"), reasons(top.evidence)) : null,
    full.causes.length > 1 ? others("Other causes that are possible", full.causes.slice(1, 4)) : null,
    full.rejected.length ? others("Looked at and rejected", full.rejected.slice(0, 5)) : null,
    full.changes.length ? h("div", {}, h("h4", {}, "Changes"), h("table", {}, full.changes.map((c) => h("tr", {}, h("th", { scope: "row" }, time(c.ts)),
      h("td", {}, `${c.kind} of ${c.entity.name}${c.before || c.after ? `: ${c.before} → ${c.after}` : ""}${c.by ? ` by ${c.by}` : ""}${c.text ? ` (${c.text})` : ""}`, /^https?:/.test(c.url) ? [" ", h("a", { href: c.url, rel: "noopener noreferrer", target: "_blank" }, "more")] : null))))) : null,
    full.traces.length ? h("p", { class: "soft" }, `Requests that failed or were slow: ${full.traces.join(", ")}`) : null,
    full.turns.length ? h("details", {}, h("summary", {}, "Its life"), h("table", {}, full.turns.map((t) => h("tr", {}, h("th", { scope: "row" }, time(t.ts)), h("td", {}, `${t.event} by ${t.by}${t.why ? `: ${t.why}` : ""}`))))) : null,
    full.state !== "resolved" && !full.acknowledged_by ? h("p", {}, h("button", { type: "button", class: "quiet small", "data-focus": `ack ${full.id}`, onclick: () => ack(full) }, "I have it")) : null,
    h("p", { class: "soft" }, full.id, " ", full.labelled ? `${full.labelled.label}, by ${full.labelled.by}: ${full.labelled.text}. ` : "", ["noise", "real"].filter((w) => w !== full.label).map((w) => h("button", { type: "button", class: "quiet small", "data-focus": `${w} ${full.id}`, onclick: () => label(full, w) }, `It was ${w}`))),
  ].filter(Boolean);
}

function reasons(evidence) {
  const most = Math.max(1, ...evidence.map((e) => Math.abs(e.weight)));
  return h("ul", { class: "reasons" }, evidence.map((e) => {
    const bar = h("i");
    bar.style.width = `${(100 * Math.abs(e.weight)) / most}%`;
    const what = e.weight > 0 ? "speaks for it" : e.weight < 0 ? "speaks against it" : "weighs nothing";
    return h("li", {}, h("span", { class: `weight${e.weight > 0 ? "" : " against"}`, title: what }, bar), h("span", {}, h("span", { class: "hidden" }, `${what}: `), e.text));
  }));
}

function others(title, causes) {
  return h("div", {}, h("h4", {}, title), h("ul", { class: "reasons others" }, causes.map((c) => {
    const bar = h("i"), reason = c.evidence.find((e) => e.weight < 0) || c.evidence[0];
    bar.style.width = percent(c.probability).replace(" ", "");
    return h("li", {}, h("span", { class: "weight against", title: percent(c.probability) }, bar),
      h("span", {}, `${c.kind} (${percent(c.probability)}): ${reason ? reason.text : "too little speaks for it"}`));
  })));
}

function gate(d) {
  const shut = d.gates.find((g) => !g.passed);
  return h("p", { class: "gates" }, `${d.playbook} on ${d.target.name}: ${shut ? `gate ${shut.name}, ${shut.reason || shut.value}` : "the guard said no"}`);
}

/* ---------------------------------------------------------------- runs */

const stateWords = { waiting_approval: "waits for you", suggested: "suggested", acting: "acting", verifying: "being checked", holding: "holds for a while", undoing: "being undone" };
const verdictWords = { helped: "helped", no_effect: "no effect", harmed: "did harm", cannot_tell: "can not be told from chance" };

function runs() {
  const place = $("runs"), shown = state.runs.slice(0, 12);
  fill(place, JSON.stringify([shown, Math.floor(now() / 20)]), () => shown.length ? h("div", { class: "card" }, shown.map(run)) : h("p", { class: "soft" }, "No playbook has run yet."));
}

function run(r) {
  const o = r.outcome, gates = r.gates.filter((g) => !g.passed);
  const chip = o ? h("span", { class: `chip ${o.verdict}` }, verdictWords[o.verdict] || o.verdict, o.undone ? ", undone" : "")
    : h("span", { class: `chip ${r.asks ? "asks" : r.live ? "live" : r.state}` }, stateWords[r.state] || words(r.state));
  const left = r.approve && r.approve.expires ? r.approve.expires - now() : null;
  return h("div", { class: `run${r.asks ? " asks" : ""}` },
    h("div", { class: "row" }, h("b", {}, r.title), h("span", { class: "soft" }, `on ${r.target.name}`), chip,
      h("span", { class: "soft" }, r.live || r.asks ? `for ${lasts(now() - r.started)}` : time(r.updated)),
      r.asks ? h("span", { class: "acts" },
        h("button", { type: "button", class: "go", "data-focus": `approve ${r.id}`, onclick: () => approve(r) }, "Approve"),
        h("button", { type: "button", "data-focus": `deny ${r.id}`, onclick: () => deny(r) }, "Deny"))
        : r.live ? h("span", { class: "acts" }, h("button", { type: "button", class: "small", "data-focus": `stop ${r.id}`, onclick: () => deny(r, true) }, "Stop and put back")) : null),
    h("ol", { class: "steps" }, r.steps.map((s) => h("li", { class: s.status }, h("span", {}, s.summary || words(s.use), s.status === "planned" && s.temporary ? " (put back later)" : ""), h("span", { class: "hidden" }, `: ${words(s.status)}`)))),
    o ? h("p", { class: "outcome" }, o.summary, o.against ? h("span", { class: "soft" }, ` (compared with ${words(o.against)})`) : null) : null,
    !o && r.expect.length ? h("p", { class: "soft" }, "Proven by ", h("code", {}, r.expect.join(" and "))) : null,
    left !== null && left > 0 ? h("p", { class: "soft" }, `Without an answer it ${r.approve.on_timeout === "deny" ? "is denied" : "escalates"} in ${lasts(left)}.`) : null,
    gates.map((g) => h("p", { class: "gates" }, `Gate ${g.name}: ${g.reason || g.value}`)),
    r.text && !o ? h("p", { class: "soft" }, r.text) : null);
}

function approve(r) {
  const body = [h("p", {}, `On ${r.target.name}, for ${r.incident}:`),
    h("ol", { class: "steps" }, r.steps.map((s) => h("li", { class: s.status }, words(s.use), s.temporary ? " (put back later)" : ""))),
    r.expect.length ? h("p", { class: "soft" }, "Then it is checked: ", h("code", {}, r.expect.join(" and "))) : null].filter(Boolean);
  confirmed(r.title, body, "Approve", () => act(`/api/runs/${r.id}/approve`, { plan_hash: r.plan_hash }), { reason: false });
}

function deny(r, stop = false) {
  confirmed(stop ? `Stop: ${r.title}` : `Deny: ${r.title}`, h("p", {}, stop ? "It stops at its next step and puts back what it did." : "Nothing will be done."),
    stop ? "Stop it" : "Deny", (reason) => act(`/api/runs/${r.id}/deny`, { reason }), { stop: true });
}

function pauseAll() {
  if (state.status?.paused.some((p) => p.key === "*")) { resume("*"); return; }
  confirmed("Pause everything", h("p", {}, "It goes on watching and acts on nothing. Runs stop at their next step, until a person resumes."), "Pause",
    (reason) => act("/api/pause", { reason }), { stop: true });
}

function resume(key) {
  confirmed(key === "*" ? "Let it act again?" : `Let it act on ${key} again?`, h("p", {}, "Playbooks may act again, within the mode and what is managed."), "Resume",
    () => act("/api/resume", { target: key }), { reason: false });
}

function ack(i) {
  confirmed("I have it", [h("p", {}, i.title), h("p", {}, "Others see that you have taken it, and why. It holds until it is over.")], "I have it",
    (reason) => act(`/api/incidents/${i.id}/ack`, { reason }));
}

function label(i, word) {
  const effect = word === "noise" ? "What was abnormal in it must be rarer from now on, for some weeks." : "What was abnormal in it may be more common again.";
  confirmed(word === "noise" ? "It was noise" : "It was real", h("p", {}, `${i.title}. The alarm budget counts it. ${effect}`), "Say so",
    (note) => act(`/api/incidents/${i.id}/label`, { label: word, note }));
}

/* ---------------------------------------------------------------- sources */

function source(x) {
  const learns = x.learning && !x.learning.ready, kind = x.state === "blind" ? "blind" : learns ? "learning" : x.state;
  const age = x.age_s === null ? "never answered" : x.state === "blind" ? `silent for ${lasts(x.age_s)}` : `${x.series || x.name.endsWith(".feed") ? "" : "nothing of it here, asked "}every ${lasts(x.interval_s)}${x.stretched ? ", stretched" : ""}`;
  const done = learns ? x.learning.rows / (x.learning.rows + x.learning.ready_in_s / Math.max(x.interval_s, 1)) : 0, bar = h("i");
  bar.style.width = `${Math.round(100 * done)}%`;
  return h("div", { class: `source ${kind}` },
    h("div", { class: "row" }, h("i", { class: `dot ${kind}` }), h("b", {}, x.name), h("span", {}, x.series ? `${x.series} series` : "")),
    h("p", {}, x.state === "blind" ? `blind, ${age}` : x.state === "waiting" ? `waiting: ${x.error || age}` : age),
    x.state === "blind" && x.error ? h("p", {}, x.error) : null,
    learns ? [h("p", {}, `learning since ${x.learning.since ? time(x.learning.since) : "now"}, ready in ${lasts(x.learning.ready_in_s)}`), h("div", { class: "meter", role: "progressbar", "aria-valuenow": Math.round(100 * done), "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": `${x.name} learns` }, bar)] : null);
}

/* ---------------------------------------------------------------- charts */

const paint = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function forget(id) {
  for (const [key, chart] of state.charts) if (chart.incident === id) { chart.plot.destroy(); state.charts.delete(key); }
}

function plots(body, id, charts) {
  for (const c of charts) {
    const place = body.querySelector(`[data-series="${CSS.escape(c.series)}"] .plot`);
    if (!place) continue;
    const values = c.data[1].filter((v) => v !== null), last = values.at(-1);
    const expected = band(c.low, c.high, c.unit);
    place.setAttribute("aria-label", values.length ? `${c.title} of ${c.subject}: now ${say(last, c.unit)}, highest ${say(Math.max(...values), c.unit)}, lowest ${say(Math.min(...values), c.unit)}${expected ? `, expected ${expected}` : ""}` : `${c.title}: no values`);
    place.title = expected ? `expected ${expected}` : "";
    const key = `${id} ${c.series}`, had = state.charts.get(key);
    if (had && had.place === place && place.isConnected) {
      Object.assign(had.chart, c);
      had.plot.setData(c.data);
      continue;
    }
    if (had) had.plot.destroy();
    state.charts.set(key, { incident: id, place, chart: c, plot: plot(place, c) });
  }
}

function plot(place, c) {
  const soft = paint("--soft"), grid = { stroke: paint("--grid"), width: 1 }, font = "11px system-ui, sans-serif";
  const made = new uPlot({
    width: place.clientWidth || 300, height: 128, padding: [8, 6, 0, 0], legend: { show: false },
    cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
    scales: {
      x: { time: true },
      y: { range: (u, low, high) => {
        const ends = [low, high, c.low, c.high].filter((v) => v !== null && v !== undefined && Number.isFinite(v));
        if (!ends.length) return [0, 1];
        let [from, to] = [Math.min(...ends), Math.max(...ends)];
        // from zero, so that noise does not look like a mountain; not where only the last percent counts
        if (from > 0 && c.low === null) from = 0;
        const room = (to - from || Math.abs(to) || 1) * 0.08;
        return [from === 0 ? 0 : from - room, to + room];
      } },
    },
    axes: [
      { stroke: soft, grid, ticks: { show: false }, font, size: 22, space: 70, values: (u, ticks) => ticks.map((t) => new Date(t * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false })) },
      { stroke: soft, grid, ticks: { show: false }, font, size: 52, space: 24, values: (u, ticks) => ticks.map((v) => say(v, c.unit)) },
    ],
    series: [{}, { stroke: paint("--curve"), width: 1.6, points: { show: false }, spanGaps: false }],
    hooks: { drawClear: [(u) => expect(u, c)], draw: [(u) => marks(u, c)], setCursor: [(u) => hover(u, c)] },
  }, c.data, place);
  return made;
}

function expect(u, c) {
  if (c.low === null && c.high === null) return;
  const { left, top, width, height } = u.bbox, x = u.ctx;
  const clamp = (y) => Math.min(top + height, Math.max(top, y));
  const upper = c.high === null ? top : clamp(u.valToPos(c.high, "y", true)), lower = c.low === null ? top + height : clamp(u.valToPos(c.low, "y", true));
  x.save();
  x.fillStyle = paint("--band");
  x.fillRect(left, upper, width, lower - upper);
  x.strokeStyle = paint("--band-edge");
  x.lineWidth = devicePixelRatio;
  for (const [value, y] of [[c.high, upper], [c.low, lower]]) if (value !== null) { x.beginPath(); x.moveTo(left, y); x.lineTo(left + width, y); x.stroke(); }
  x.restore();
}

function marks(u, c) {
  const { left, top, width, height } = u.bbox, x = u.ctx, colours = { onset: "--bad", act: "--go", change: "--warn", end: "--good" };
  x.save();
  x.lineWidth = 1.5 * devicePixelRatio;
  x.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
  for (const m of c.marks) {
    const at = u.valToPos(m.ts, "x", true);
    if (at < left || at > left + width) continue;
    x.strokeStyle = paint(colours[m.kind] || "--faint");
    x.beginPath(); x.moveTo(at, top); x.lineTo(at, top + height); x.stroke();
  }
  x.restore();
}

function hover(u, c) {
  const place = u.root.closest(".chart")?.querySelector("figcaption span");
  if (!place) return;
  const i = u.cursor.idx, near = i === null || i === undefined ? null : c.data[0][i];
  const mark = near === null ? null : c.marks.find((m) => Math.abs(u.valToPos(m.ts, "x") - u.cursor.left) < 6);
  place.textContent = near === null ? c.subject : mark ? `${time(mark.ts)} ${mark.text}` : `${time(near)}  ${say(c.data[1][i], c.unit)}`;
}

function redraw() {
  for (const chart of state.charts.values()) chart.plot.destroy();
  state.charts.clear();
  for (const place of document.querySelectorAll(".plot")) place.replaceChildren();
  if (state.status) draw();
}

/* ---------------------------------------------------------------- people */

async function toggle(id) {
  if (state.open.delete(id)) state.closed.add(id);
  else {
    state.closed.delete(id);
    state.open.add(id);
    await detail(id).catch(() => state.open.delete(id));
  }
  draw();
}

function theme() {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
  redraw();
}

function move(by) {
  const lines = [...document.querySelectorAll("#incidents .line, #past .line")];
  if (!lines.length) return;
  const at = lines.indexOf(document.activeElement);
  lines[Math.min(lines.length - 1, Math.max(0, at + by))].focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]") || event.target.matches("input")) return;
  const keys = { j: () => move(1), k: () => move(-1), p: pauseAll, t: theme, "?": () => $("keys-box").showModal() };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});

$("pause").addEventListener("click", pauseAll);
$("theme").addEventListener("click", theme);
$("keys").addEventListener("click", () => $("keys-box").showModal());
$("who").addEventListener("click", () => signIn("").then((used) => used && refresh()));
$("token-cancel").addEventListener("click", () => $("token-box").close());
$("token-forget").addEventListener("click", () => { sessionStorage.removeItem("token"); $("token-box").close(); });
$("ask-cancel").addEventListener("click", () => $("ask-box").close());
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && later(0));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  for (const { plot, place } of state.charts.values()) plot.setSize({ width: place.clientWidth, height: 128 });
});

if (localStorage.getItem("theme")) document.documentElement.dataset.theme = localStorage.getItem("theme");
whoAmI();
follow();
