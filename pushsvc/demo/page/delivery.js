// The delivery panel: what has come, by which transport, how long after it was asked for.

import { format, html } from "./svg.js";
import { names } from "./transports.js";

const SUBMITTED = "pushsvc.demo.submitted";
const SHOWN = 40;

const by = (id) => document.getElementById(id);

/** The jobs this browser has submitted and when; kept, so that a reload still knows what is on the way. */
export class Submitted {
  #jobs = new Map(read());

  add(job, name, params, at) {
    this.#jobs.set(job, { name, params, at, done: false, ...this.#jobs.get(job) });
    this.#save();
  }

  get(job) {
    return this.#jobs.get(job);
  }

  finish(job) {
    const known = this.#jobs.get(job);
    if (known) known.done = true;
    this.#save();
  }

  get outstanding() {
    return [...this.#jobs.values()].filter((job) => !job.done).length;
  }

  #save() {
    localStorage.setItem(SUBMITTED, JSON.stringify([...this.#jobs].slice(-SHOWN)));
  }
}

function read() {
  try {
    return JSON.parse(localStorage.getItem(SUBMITTED)) ?? [];
  } catch {
    return [];
  }
}

export class Delivery {
  #received = 0;
  #missed = 0;
  #entries = new Map(); // job id → the cell for its latency, filled in when the 202 comes after the event
  #back = 0; // when we came back, by the page's clock

  constructor(submitted) {
    this.submitted = submitted;
  }

  /** Connected again. What was pushed before this moment was missed, and is now recovered. */
  live({ resumed, recovered }) {
    this.#back = Date.now();
    this.#missed = 0;
    by("recovered").hidden = !recovered;
    by("recovered").textContent = "recovered";
    this.note(resumed && !recovered ? "Part of the history is gone: reading on from here." : "");
  }

  offline() {
    by("recovered").hidden = true;
    const waiting = this.submitted.outstanding;
    const jobs = `${count(waiting, "job")} on the way; the results will wait for you.`;
    this.note(waiting ? jobs : "Nothing can reach this page now.");
  }

  note(text) {
    by("delivery-note").textContent = text;
  }

  event({ event, position, order, transport, bytes }) {
    if (order !== "duplicate") {
      this.#received += 1;
      this.submitted.finish(event.job);
    }
    // By the server's clock the event happened before we were back: it was pushed while nobody listened.
    const missed = order !== "duplicate" && Date.parse(event.at) < this.#back;
    if (missed) {
      this.#missed += 1;
      by("recovered").textContent = `recovered ${this.#missed}`;
      this.note(`${count(this.#missed, "event")} came while you were away; nothing is lost.`);
    }
    const latency = html("span", { class: "latency" }, this.#latency(event.job));
    if (!this.submitted.get(event.job)) this.#entries.set(event.job, { latency, at: Date.now() });
    const kind = event.type.replace("job.", "");
    const how = `${names[transport]}, ${format.bytes(bytes)}`;
    this.#list(
      [
        html("code", { title: "position" }, position),
        html("span", { class: "what" }, event.name),
        html("span", { class: `badge ${kind === "succeeded" ? "good" : "bad"}` }, kind),
        missed ? html("span", { class: "badge" }, "recovered") : null,
        order === "next" ? null : html("span", { class: "badge bad" }, order),
      ],
      [html("span", {}, how), latency],
    );
    this.count();
  }

  reset({ position }) {
    const badge = html("span", { class: "badge bad" }, "reset");
    this.#list([html("code", {}, position), badge], ["what lay between is gone"]);
  }

  /** The job's id is known now: the event may have been faster than the answer to the submission. */
  accepted(job) {
    const entry = this.#entries.get(job);
    if (entry) {
      this.#entries.delete(job);
      entry.latency.textContent = this.#latency(job, entry.at);
      this.submitted.finish(job);
    }
    this.count();
  }

  count() {
    by("received").textContent = this.#received;
    by("outstanding").textContent = this.submitted.outstanding;
  }

  #latency(job, now = Date.now()) {
    const known = this.submitted.get(job);
    return known ? `${format.time(Math.max(now - known.at, 0))} after submit` : "";
  }

  #list(...lines) {
    const list = by("events");
    list.prepend(html("li", {}, ...lines.map((line) => html("p", {}, ...line))));
    while (list.children.length > SHOWN) list.lastChild.remove();
    by("events-empty").hidden = true;
  }
}

function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
