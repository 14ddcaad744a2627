/* Numbers, times and names as people say them. Unknown is said to be unknown. */

import { now } from "./store.js";

export function lasts(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min` + (s < 600 && s % 60 ? ` ${s % 60} s` : "");
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export const time = (ts) => {
  const when = new Date(ts * 1000), day = when.toDateString() === new Date(now() * 1000).toDateString();
  return (day ? "" : `${when.toLocaleDateString([], { month: "short", day: "numeric" })} `) + when.toLocaleTimeString([], { hour12: false });
};

export const three = (v) => Number(v.toPrecision(3)).toString();

export function say(value, unit) {
  if (value === null || value === undefined) return "unknown";
  const size = Math.abs(value);
  if (unit === "ratio") return `${three(value * 100)} %`;
  if (unit === "seconds") return size === 0 ? "0" : size < 1 ? `${three(value * 1000)} ms` : size < 100 ? `${three(value)} s` : lasts(value);
  if (unit === "bytes" || unit === "bytes_per_second") {
    const tail = unit === "bytes" ? "" : "/s";
    for (const [name, of] of [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) if (size >= of) return `${three(value / of)} ${name}${tail}`;
    return `${three(value)} B${tail}`;
  }
  if (unit === "score") return rare(10 ** -value);
  const tail = { celsius: " °C", watts: " W", hertz: " Hz", per_second: "/s" }[unit] || "";
  return size < 1e5 ? three(value) + tail : Math.round(value).toLocaleString("en") + tail;
}

export const band = (low, high, unit) =>
  low === null && high === null ? "" : low === null ? `at most ${say(high, unit)}` : high === null ? `at least ${say(low, unit)}` : `${say(low, unit)} to ${say(high, unit)}`;

export const percent = (p) => (p === null || p === undefined ? "unknown" : `${Math.round(p * 100)} %`);
export const words = (text) => text.replaceAll("_", " ");
export const many = (n, one, more = `${one}s`) => `${n} ${n === 1 ? one : more}`;
export const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
export const first = (signed) => signed.split(" (")[0];

/** How rare: 1 in so many rows. */
export const rare = (p) => (p === null ? "not known" : p <= 1e-9 ? "never seen before" : p >= 0.05 ? "as ever" : `1 in ${Number((1 / p).toPrecision(2)).toLocaleString("en")}`);

export const severities = { page: "hurts users", warning: "warning", note: "note" };
export const stateWords = { waiting_approval: "waits for you", suggested: "suggested", acting: "acting", verifying: "being checked", holding: "holds for a while", undoing: "being undone" };
export const verdictWords = { helped: "helped", no_effect: "no effect", harmed: "did harm", cannot_tell: "can not be told from chance" };
