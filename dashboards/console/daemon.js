/* The daemon: what it is asked, and what it tells while it happens. */

/** It said no, or nothing at all (status 0). */
export class Refusal extends Error {
  constructor(status, body) {
    super(body.error || `the daemon answered ${status}`);
    this.status = status;
    this.remedy = body.remedy || "";
  }

  get whole() { return this.message + (this.remedy ? `: ${this.remedy}` : ""); }
}

export const token = () => sessionStorage.getItem("token") || "";
const headers = () => (token() ? { Authorization: `Bearer ${token()}` } : {});

export async function ask(path, method = "GET", body = undefined) {
  const answer = await fetch(path, {
    method, headers: { ...headers(), ...(body ? { "Content-Type": "application/json" } : {}) },
    body: body ? JSON.stringify(body) : undefined, cache: "no-store", credentials: "omit",
  }).catch(() => { throw new Refusal(0, { error: "the daemon does not answer" }); });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refusal(answer.status, said);
  return said;
}

/** A part of an address: names hold slashes and colons. */
export const part = (text) => encodeURIComponent(text);
export const query = (given) => new URLSearchParams(Object.entries(given).filter(([, v]) => v !== "" && v !== null && v !== undefined));

/** Follow events for ever; fetch and not EventSource, because only fetch can carry the token. */
export async function follow(heard, lost) {
  for (;;) {
    // a page that is kept for `back` would hold one of the six connections that a browser has for us
    const left = new AbortController(), leave = () => left.abort();
    addEventListener("pagehide", leave);
    try {
      const stream = await fetch("/api/events", { headers: headers(), cache: "no-store", credentials: "omit", signal: left.signal });
      if (!stream.ok) throw new Error(stream.status);
      heard("open");
      const reader = stream.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        const parts = text.split("\n\n");
        text = parts.pop();
        for (const one of parts) {
          const kind = one.match(/^event: (.*)$/m)?.[1];
          if (kind) heard(kind);
        }
      }
      lost();
    } catch (error) {
      lost();
    }
    removeEventListener("pagehide", leave);
    await new Promise((wake) => setTimeout(wake, 3000));
  }
}
