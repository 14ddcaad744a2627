/* Elements without a framework: made from text that is never parsed as HTML, and put in place only when they changed. */

export const $ = (id) => document.getElementById(id);

function built(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(3).filter((c) => c !== null && c !== undefined && c !== false));
  return made;
}

/** Make an element: h("p", {class: "soft"}, "text", child). */
export const h = (tag, attributes, ...children) => built(document.createElement(tag), attributes, children);

export const svg = (tag, attributes, ...children) =>
  built(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** Put children into a place only when what they show has changed: focus, scroll and what was opened stay. */
export function fill(place, key, make) {
  const said = typeof key === "string" ? key : JSON.stringify(key);
  if (place.dataset.key === said) return false;
  place.dataset.key = said;
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  const opened = new Set([...place.querySelectorAll("details[open][data-open]")].map((e) => e.dataset.open));
  const scrolled = [...place.querySelectorAll("[data-scroll]")].map((e) => [e.dataset.scroll, e.scrollLeft, e.scrollTop]);
  place.replaceChildren(...[make()].flat(3).filter(Boolean));
  for (const e of place.querySelectorAll("details[data-open]")) if (opened.has(e.dataset.open)) e.open = true;
  for (const [name, left, top] of scrolled) place.querySelector(`[data-scroll="${name}"]`)?.scrollTo(left, top);
  if (focused) place.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  return true;
}

/** A section of a page with a heading; it is filled later. */
export function section(id, title, ...more) {
  return h("section", { id: `${id}-part`, "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title` }, title, ...more), h("div", { id }));
}

/** What stands where there is nothing. */
export const empty = (...text) => h("p", { class: "empty" }, ...text);

/** A bar in per cent; CSP forbids style attributes, not properties. */
export function width(element, share) {
  element.style.width = `${Math.max(0, Math.min(100, 100 * share))}%`;
  return element;
}
