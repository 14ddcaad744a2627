/* The graph page: who is there, how they are, who depends on whom, who says so. */

import { ask, query } from "./daemon.js";
import { $, h, svg } from "./dom.js";
import { drawMap, edgeWords, old } from "./map.js";
import { many } from "./words.js";

let state = { got: null, picked: "", shape: "" };
const KEYS = [["page", "hurts users"], ["warning", "warning"], ["note", "note"], ["well", "well"], ["silent", "nothing fresh is known"], ["suspect", "first cause of an incident"]];

export const page = {
  title: "Topology",
  every: 5,
  wide: true,
  async load() {
    return ask(`/api/topology?${query({ target: state.target, everything: state.all })}`);
  },
  build(root, go) {
    const asked = new URLSearchParams(location.search);
    state = { got: null, picked: "", shape: "", target: asked.get("around") || "", all: asked.get("all") === "1" };
    const look = () => go(`/topology?${query({ around: $("find").value.trim(), all: $("all").checked ? "1" : "" })}`);
    root.append(
      h("div", { class: "bar" }, h("h1", { tabindex: "-1" }, "Topology"),
        h("label", { for: "find" }, "Around"), h("input", { id: "find", type: "search", list: "names", placeholder: "everything", autocomplete: "off", spellcheck: "false", value: state.target, onchange: look }),
        h("datalist", { id: "names" }), h("label", {}, h("input", { id: "all", type: "checkbox", checked: state.all, onchange: look }), " all"), h("p", { id: "said", class: "soft", role: "status" })),
      h("div", { class: "card canvas", tabindex: "0", role: "region", "aria-label": "The graph, it can be scrolled" }, svg("svg", { id: "graph", role: "group", "aria-label": "Who depends on whom" })),
      h("p", { class: "legend" }, KEYS.map(([key, text]) => h("span", {}, h("i", { class: "key", "data-state": key }), text))),
      h("section", { "aria-labelledby": "about-title" }, h("h2", { id: "about-title" }, "Click a thing to see how it is, and on whom it depends"), h("div", { id: "about" })));
  },
  draw(got) {
    state.got = got;
    const shape = JSON.stringify([got.nodes.map((n) => [n.id, n.state, n.suspect]), got.edges.map((e) => [e.kind, e.src, e.dst, old(e)])]);
    if (shape !== state.shape) { state.shape = shape; paint(); }
    if (state.picked) about();
    if (!state.target) $("names").replaceChildren(...got.nodes.map((n) => h("option", { value: n.id }, n.name)));
    const ill = got.nodes.filter((n) => ["page", "warning", "note"].includes(n.state)).length;
    $("said").textContent = `${many(got.nodes.length, "thing")}, ${many(got.edges.length, "edge")}, ${ill ? `${ill} not well` : "all that we see is well"}${got.left_out ? `; ${got.left_out} more are left out, look around one of them` : ""}.`;
  },
};

function paint() {
  drawMap($("graph"), state.got, { picked: state.picked, pick: (n) => { state.picked = n.id; paint(); about(); } });
}

function about() {
  const n = state.got.nodes.find((x) => x.id === state.picked);
  $("about-title").textContent = n ? n.id : "Click a thing to see how it is, and on whom it depends";
  if (!n) { $("about").replaceChildren(); return; }
  const edges = state.got.edges.filter((e) => e.src === n.id || e.dst === n.id);
  $("about").replaceChildren(h("div", { class: "card pad" },
    h("p", { class: "chips" }, h("span", { class: `chip ${n.state}` }, n.state === "page" ? "hurts users" : n.state), n.suspect ? h("span", { class: "chip asks" }, "suspect") : null,
      n.incident ? h("a", { href: `/incidents/${n.incident}` }, n.incident) : null,
      h("a", { class: "button small", href: `/topology?${query({ around: n.id })}` }, "Only what is around it"),
      h("a", { class: "button small", href: `/explore?${query({ search: n.id })}` }, "Its series")),
    Object.keys(n.attrs).length ? h("table", { class: "pairs" }, Object.entries(n.attrs).map(([k, v]) => h("tr", {}, h("th", { scope: "row" }, k), h("td", {}, v)))) : null,
    h("ul", { class: "plain" }, edges.map((e) => h("li", {}, edgeWords(e))))));
}
