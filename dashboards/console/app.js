/* The console: which page is shown, what keeps it fresh, and the head that all pages share.
   No framework, no inline script, nothing from elsewhere: pages are built from /api and kept fresh by /api/events. */

import { pauseAll, resume } from "./acts.js";
import { page as audit } from "./audit.js";
import { forget, redraw } from "./charts.js";
import { ask, follow, Refusal } from "./daemon.js";
import { $, fill, h } from "./dom.js";
import { page as explore } from "./explore.js";
import { page as incident } from "./incident.js";
import { page as models } from "./models.js";
import { page as nowPage } from "./now.js";
import { onChange, press, signIn, whoAmI } from "./people.js";
import { page as playbooks } from "./playbooks.js";
import { store } from "./store.js";
import { page as topology } from "./topology.js";
import { lasts, many, say } from "./words.js";

const ROUTES = [
  [/^\/$/, nowPage], [/^\/incidents\/([^/]+)$/, incident], [/^\/explore$/, explore], [/^\/models$/, models],
  [/^\/playbooks$/, playbooks], [/^\/topology$/, topology], [/^\/audit$/, audit],
];
let shown = { page: null, params: [], key: "" };

/* ---------------------------------------------------------------- pages */

function route(moved) {
  const [found, page] = ROUTES.find(([way]) => way.test(location.pathname)) || ROUTES[0];
  const params = (location.pathname.match(found) || []).slice(1).map(decodeURIComponent), key = location.pathname + location.search;
  const same = shown.page === page && shown.key.split("?")[0] === location.pathname && page.keeps;
  shown = { page, params, key };
  if (!same) {
    forget();
    const root = $("page");
    root.className = page.wide ? "wide" : "";
    root.setAttribute("aria-busy", "true");
    root.replaceChildren();
    page.build(root, go, params);
    if (moved) { scrollTo(0, 0); (root.querySelector("h1") || root).focus({ preventScroll: true }); }
  }
  for (const a of document.querySelectorAll(".nav a")) {
    const here = a.pathname === location.pathname || (a.pathname === "/" && location.pathname.startsWith("/incidents/"));
    if (here) a.setAttribute("aria-current", "page"); else a.removeAttribute("aria-current");
  }
  refresh();
}

/** Go to an address of ours. */
function go(url) {
  if (location.pathname + location.search === url) { refresh(); return; }
  history.pushState(null, "", url);
  route(true);
}

document.addEventListener("click", (event) => {
  const a = event.target.closest("a[href]");
  if (!a || a.origin !== location.origin || a.hash || a.target || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  if (!ROUTES.some(([way]) => way.test(a.pathname))) return;
  event.preventDefault();
  go(a.pathname + a.search);
});
addEventListener("popstate", () => route(true));

/* ---------------------------------------------------------------- fresh data */

let asking = false, again = false;
async function refresh() {
  if (asking) { again = true; return; }
  asking = true;
  const { page, params, key } = shown;
  try {
    const [status, got] = await Promise.all([ask("/api/status"), page.load(params, new URLSearchParams(location.search)).then((data) => ({ data }), (fault) => ({ fault }))]);
    Object.assign(store, { status, stamp: performance.now() });
    head(status);
    linked(true);
    if (shown.key === key) {
      if (got.fault) failed(page, got.fault);
      else {
        document.querySelector("#page > .failed")?.remove();
        page.draw(got.data, $("page"));
      }
      $("page").setAttribute("aria-busy", "false");
      document.title = `${status.counts.page ? `(${status.counts.page}) ` : ""}${page.name?.(got.data) || page.title} · homeostat ${status.host}`;
      if (!performance.getEntriesByName("drawn").length) performance.mark("drawn");
    }
  } catch (refusal) {
    if (refusal.status === 401) { linked(false, "needs a token"); signIn(refusal.message); }
    else if (refusal instanceof Refusal) linked(false);
    else throw refusal; // a fault of ours
  } finally {
    asking = false;
    if (again) { again = false; setTimeout(refresh, 50); }
  }
}

/** What is known stays on the page; beside it stands what could not be had. */
function failed(page, fault) {
  if (!(fault instanceof Refusal)) throw fault;
  document.querySelector("#page > .failed")?.remove();
  $("page").prepend(h("p", { class: "failed", role: "alert" }, fault.whole, fault.status === 404 ? h("span", {}, " ", h("a", { href: "/" }, "See what there is now")) : null));
}

/** Ask again soon, at most once in a while however many events come. */
let soon = 0, last = 0;
function later(ms = 250) {
  if (soon) return;
  soon = setTimeout(() => { soon = 0; last = performance.now(); refresh(); }, Math.max(ms, 1000 - (performance.now() - last)));
}

let ticks = 0;
function heard(kind) {
  if (kind === "open") { refresh(); return; }
  linked(true);
  if (kind !== "tick") { later(); return; }
  ticks += 1;
  if (document.visibilityState === "visible" && ticks % (shown.page.every || 5) === 0) refresh();
}

function linked(yes, text) {
  document.querySelector("#link .dot").className = `dot ${yes ? "live" : "lost"}`;
  const said = yes ? "live" : text || "not connected";
  if ($("link-text").textContent !== said) $("link-text").textContent = said;
}

/* ---------------------------------------------------------------- the head */

function head(s) {
  $("host").textContent = s.host;
  $("mode").hidden = false;
  $("mode").textContent = `mode ${s.mode}`;
  $("mode").title = s.manages ? "How far any playbook may go" : "It acts on nothing: manages: is empty";
  $("badge").hidden = !s.counts.open;
  fill($("badge"), [s.counts.open, s.counts.page], () => [String(s.counts.open), h("span", { class: "hidden" }, ` open${s.counts.page ? `, ${many(s.counts.page, "hurts", "hurt")} users` : ""}`)]);
  $("badge").classList.toggle("bad", s.counts.page > 0);
  $("paused").hidden = !s.paused.length;
  $("pause").hidden = s.paused.some((p) => p.key === "*");
  fill($("paused"), [s.paused, store.me], () => s.paused.map((p) => h("span", {},
    h("strong", {}, p.key === "*" ? "Everything is paused. " : `${p.key} is paused. `),
    p.by ? `By ${p.by}` : "By the file PAUSED", p.reason ? `: ${p.reason} ` : " ", press("Resume", "resume", `resume ${p.key}`, () => resume(p.key)))));
  const faults = [...s.faults, ...(s.journal_pending ? [`the journal can not be written, ${many(s.journal_pending, "entry waits", "entries wait")}`] : [])];
  $("faults").hidden = !faults.length;
  if ($("faults").textContent !== faults.join("; ")) $("faults").textContent = faults.join("; ");
  $("version").textContent = `homeostat ${s.version}, up ${lasts(s.now - s.started)}.`;
  $("cost").textContent = s.usage.rss_bytes ? `It costs ${say(s.usage.rss_bytes, "bytes")} of memory and has written ${many(s.journal_entries, "entry", "entries")}.` : "";
}

/* ---------------------------------------------------------------- keys, colours */

function theme() {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
  redraw();
}

function move(by) {
  const lines = [...document.querySelectorAll("#page [data-line]")].filter((e) => e.offsetParent);
  if (!lines.length) return;
  lines[Math.min(lines.length - 1, Math.max(0, lines.indexOf(document.activeElement) + by))].focus();
}

const PLACES = { n: "/", e: "/explore", m: "/models", p: "/playbooks", t: "/topology", a: "/audit" };
let going = 0;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]") || event.target.matches("input, select, textarea")) return;
  const keys = {
    j: () => move(1), k: () => move(-1), p: pauseAll, t: theme, "?": () => $("keys-box").showModal(), g: () => { going = event.timeStamp; },
    "/": () => document.querySelector("#page input[type=search]")?.focus(),
  };
  const place = event.timeStamp - going < 1500 && going ? PLACES[event.key] : null;
  if (place) { going = 0; event.preventDefault(); go(place); return; }
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});

$("pause").addEventListener("click", pauseAll);
$("theme").addEventListener("click", theme);
$("keys").addEventListener("click", () => $("keys-box").showModal());
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && later(0));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

if (localStorage.getItem("theme")) document.documentElement.dataset.theme = localStorage.getItem("theme");
onChange(() => { for (const e of document.querySelectorAll("#page [data-key]")) if (!e.classList.contains("plot")) delete e.dataset.key; refresh(); });
whoAmI();
route(false);
follow(heard, () => linked(false));
