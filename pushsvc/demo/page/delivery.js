// The delivery panel: what is on the way, and what has come, by which transport, how long after it was asked for.

import { names } from "./network.js";
import { format, html, reportName } from "./svg.js";

const SHOWN = 40;

const by = (id) => document.getElementById(id);

export class Delivery {
  #asked;
  #received = 0;
  #missed = 0;
  #seen = new Set(); // ids of events: the history and the connection may both bring one
  #unknown = new Map(); // job id → the cell for its latency, filled in when the 202 comes after the event
  #back = 0; // when we came back, by the page's clock
  #away = false; // whether a connection was lost in this page
  #rows = new Map(); // key → the row of what is on the way, which stays the same, so that it keeps the focus

  constructor(asked) {
    this.#asked = asked;
    asked.addEventListener("change", () => this.count());
    by("outbox").addEventListener("click", ({ target }) => asked.cancel(target.dataset.key));
  }

  /** How the connection is. What was pushed before it was back was missed, and is recovered now. */
  status({ state }) {
    if (state !== "live") {
      this.#away ||= this.#back > 0;
      this.#back = 0;
    } else if (!this.#back) {
      this.#back = Date.now();
      this.#missed = 0;
      by("recovered").hidden = !this.#away;
      by("recovered").textContent = "recovered";
      this.note("");
    }
  }

  offline() {
    by("recovered").hidden = true;
    const { waiting } = this.#asked;
    const jobs = `${count(waiting.length, "job")} on the way; the results will wait for you.`;
    this.note(waiting.length ? jobs : "Nothing can reach this page now. What you run waits here.");
  }

  note(text) {
    by("delivery-note").textContent = text;
  }

  /** An event has come. Says whether it is news. */
  event(event, position, { transport, shared }) {
    if (this.#seen.has(event.id)) return false;
    this.#seen.add(event.id);
    this.#received += 1;
    // By the server's clock the event happened before we were back: it was pushed while nobody listened.
    const missed = Date.parse(event.at) < this.#back;
    if (missed) {
      this.#missed += 1;
      by("recovered").hidden = false;
      by("recovered").textContent = `recovered ${this.#missed}`;
      this.note(`${count(this.#missed, "event")} came while you were away; nothing is lost.`);
    }
    const latency = html("span", { class: "latency" }, this.#latency(event.job));
    if (!this.#asked.get(event.job)) this.#unknown.set(event.job, { latency, at: Date.now() });
    const how = [names[transport], shared && "another window", format.bytes(size(event))].filter(Boolean).join(", ");
    const badge = missed ? html("span", { class: "badge" }, "recovered") : null;
    by("events").prepend(this.#row(event, position, badge, html("span", {}, how), latency));
    this.#trim();
    this.#asked.ended(event.job);
    this.count();
    return true;
  }

  /** What the inbox held before this page was opened, the newest first. */
  history(items) {
    for (const { event, position } of items) {
      if (this.#seen.has(event.id)) continue;
      this.#seen.add(event.id);
      const at = new Date(event.at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
      const badge = html("span", { class: "badge plain" }, "earlier");
      by("events").append(this.#row(event, position, badge, html("time", { datetime: event.at }, at)));
    }
    this.#trim();
  }

  reset({ position }) {
    const badge = html("span", { class: "badge bad" }, "reset");
    const lines = [[html("code", {}, position), badge], ["what lay between is gone"]];
    by("events").prepend(html("li", {}, ...lines.map((line) => html("p", {}, ...line))));
    by("recovered").hidden = true;
    this.note("Part of the history is gone: reading on from here.");
    this.#trim();
  }

  count() {
    const { waiting } = this.#asked;
    for (const [job, { latency, at }] of this.#unknown) {
      if (!this.#asked.get(job)) continue;
      this.#unknown.delete(job);
      latency.textContent = this.#latency(job, at);
      this.#asked.ended(job);
      return; // which has told us to count again
    }
    by("received").textContent = this.#received;
    by("outstanding").textContent = waiting.length;
    const keys = new Set(waiting.map((entry) => entry.key));
    for (const [key, row] of this.#rows) {
      if (keys.has(key)) continue;
      this.#rows.delete(key);
      if (row.contains(document.activeElement)) by("events").focus();
      row.remove();
    }
    for (const entry of waiting.reverse()) this.#waiting(entry);
  }

  #waiting({ key, name, params, id, status, cancelled }) {
    const job = this.#asked.job(key);
    let row = this.#rows.get(key);
    if (!row) {
      const title = reportName(name, params);
      const button = html("button", { type: "button", class: "quiet", "aria-label": `Cancel ${title}` }, "Cancel");
      button.dataset.key = key;
      row = html("li", {}, html("a", { class: "what" }, title), html("span", { class: "badge" }), button);
      this.#rows.set(key, row);
      by("outbox").prepend(row);
    }
    const [link, badge, button] = row.children;
    const percent = job?.latest ? ` ${Math.round(job.latest.value * 100)} %` : "";
    const unsent = status === "unsent";
    const text = unsent ? `waiting to be sent${cancelled ? ", then cancelled" : ""}` : `${status}${percent}`;
    if (badge.textContent !== text) badge.textContent = text;
    badge.className = `badge ${unsent ? "wait" : "plain"}`;
    if (id) link.href = `#job=${id}`;
    button.disabled = !job || !!cancelled;
  }

  #row(event, position, badge, ...second) {
    const kind = event.type.replace("job.", "");
    const opens = event.name === "airport_report" && kind === "succeeded";
    const first = [
      html("code", { title: "position" }, position),
      opens
        ? html("a", { class: "what", href: `#job=${event.job}` }, event.name)
        : html("span", { class: "what" }, event.name),
      html("span", { class: `badge ${kind === "succeeded" ? "good" : "bad"}` }, kind),
      badge,
    ];
    return html("li", {}, html("p", {}, ...first), html("p", {}, ...second));
  }

  #trim() {
    const list = by("events");
    while (list.children.length > SHOWN) list.lastChild.remove();
    by("events-empty").hidden = list.children.length > 0;
  }

  #latency(job, now = Date.now()) {
    const known = this.#asked.get(job);
    return known ? `${format.time(Math.max(now - known.at, 0))} after submit` : "";
  }
}

/** Bytes of an event as it travels. */
export function size(event) {
  return new TextEncoder().encode(JSON.stringify(event)).length;
}

function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
