/* Who acts: the token, the box that asks before something is done, and buttons that know what a role may. */

import { ask, Refusal, token } from "./daemon.js";
import { $, h } from "./dom.js";
import { store } from "./store.js";

let changed = () => {};
/** Call back after something was done or somebody signed in. */
export const onChange = (call) => { changed = call; };

export async function whoAmI() {
  store.me = await ask("/api/me").catch(() => null);
  $("who").textContent = token() && store.me ? `${store.me.name} (${store.me.role})` : "Sign in";
}

let asked = null;

/** Ask who it is; true when a token was given. One box: whoever asks while it is open waits for the same answer, and what is typed stays. */
export function signIn(fault) {
  if (asked) {
    $("token-fault").textContent ||= fault;
    return asked;
  }
  const box = $("token-box");
  $("token-fault").textContent = fault;
  $("token").value = "";
  $("token-forget").hidden = !token();
  asked = new Promise((done) => {
    let used = false;
    box.querySelector("form").onsubmit = () => {
      used = $("token").value.trim() !== "";
      if (used) sessionStorage.setItem("token", $("token").value.trim());
    };
    box.onclose = async () => { asked = null; await whoAmI(); changed(); done(used); };
    box.showModal();
    $("token").focus();
  });
  return asked;
}

/** Do something that needs a role; asks for a token when one is missing, then goes on. */
export async function act(path, body, method = "POST") {
  for (;;) {
    try {
      return await ask(path, method, body);
    } catch (refusal) {
      if (refusal.status !== 401 || !(await signIn(token() ? refusal.message : ""))) throw refusal;
    }
  }
}

const ROLES = ["viewer", "operator", "author", "admin"];

/** Say why a verb (or what one role at least is asked for) is not for who is signed in; "" = it is, or nobody is signed in and will be asked. */
export function barred(verb, role = "") {
  const me = store.me;
  if (!me || !token()) return "";
  if (!me.may.includes(verb)) return `${me.name} is ${me.role}, ${verb} needs ${me.needs[verb] || "another role"}`;
  return role && ROLES.indexOf(me.role) < ROLES.indexOf(role) ? `${me.name} is ${me.role}, this asks for ${role}` : "";
}

/** A button for a verb: out of reach, with the reason, where the role does not suffice. */
export function press(label, verb, focus, go, kind = "small", role = "") {
  const why = barred(verb, role);
  return h("button", {
    type: "button", class: kind, "data-focus": focus, title: why || null, "aria-disabled": why ? "true" : null,
    onclick: () => (why ? ($("say").textContent = why) : go()),
  }, label, why ? h("span", { class: "hidden" }, ` (${why})`) : null);
}

/** A line of a form: {name, label, kind: text | number | choice, value, choices: [[value, words]], low, high, required}. */
function line({ name, label, kind = "text", value = "", choices = [], hint = "", list = [], low = null, high = null, required = false, most = 500 }) {
  const id = `field-${name}`;
  const input = kind === "choice"
    ? h("select", { id, name, required }, choices.map(([v, text]) => h("option", { value: v, selected: v === value }, text)))
    : h("input", { id, name, type: kind, ...(kind === "number" ? { step: "any", min: low, max: high, inputmode: "decimal" } : { maxlength: most }), required, autocomplete: "off", value, list: list.length ? `${id}-list` : null });
  return [h("label", { for: id }, label), input, list.length ? h("datalist", { id: `${id}-list` }, list.map((v) => h("option", { value: v }))) : null,
    hint ? h("p", { class: "soft small" }, hint) : null];
}

const reason = { name: "reason", label: "Why (for the record)" };

/** Ask a person before something is done; `go(values)` may refuse, and the box then says why. */
export function confirmed(title, body, label, go, { fields = [reason], stop = false } = {}) {
  const box = $("ask-box"), form = box.querySelector("form");
  $("ask-title").textContent = title;
  $("ask-body").replaceChildren(...[body].flat(3).filter(Boolean));
  $("ask-fields").replaceChildren(...fields.map(line).flat(3).filter(Boolean));
  $("ask-go").textContent = label;
  $("ask-go").className = stop ? "stop" : "go";
  $("ask-fault").textContent = "";
  $("ask-go").disabled = false;
  form.onsubmit = async (event) => {
    event.preventDefault();
    $("ask-go").disabled = true;
    $("ask-fault").textContent = "";
    try {
      const said = await go(Object.fromEntries([...new FormData(form)].map(([k, v]) => [k, v.trim()])));
      box.close();
      $("say").textContent = typeof said === "string" ? said : `${label}: done`;
      changed();
    } catch (refusal) {
      $("ask-fault").textContent = refusal instanceof Refusal ? refusal.whole : refusal.message;
      $("ask-go").disabled = false;
    }
  };
  box.showModal();
}

export { reason };

$("who").addEventListener("click", () => signIn(""));
$("token-cancel").addEventListener("click", () => $("token-box").close());
$("token-forget").addEventListener("click", () => { sessionStorage.removeItem("token"); $("token-box").close(); });
$("ask-cancel").addEventListener("click", () => $("ask-box").close());
