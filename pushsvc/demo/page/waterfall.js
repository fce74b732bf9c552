// The job's queries on one clock: when each was asked, when it got a connection, when it was answered.

import { format, html } from "./svg.js";

const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Waterfall {
  #rows = [];
  #queries = [];
  #running = false;
  #known = 0; // the latest moment the server has told of, in its milliseconds
  #heard = 0; // and when we heard of it, in ours

  constructor(list, comparison) {
    this.list = list;
    this.comparison = comparison;
  }

  /** A new job: forget the last one. */
  begin() {
    this.#rows = [];
    this.#queries = [];
    this.list.replaceChildren();
    this.comparison.hidden = true;
    this.#known = 0;
    this.#heard = performance.now();
  }

  /** What a progress frame, or in the end the result, says of the queries. */
  update(queries, running) {
    this.#queries = queries;
    const moments = queries.flatMap((query) => [query.scheduled, query.started, query.finished]);
    this.#known = Math.max(0, ...moments.filter((moment) => moment !== null));
    this.#heard = performance.now();
    while (this.#rows.length < queries.length) this.#rows.push(this.#row());
    for (const row of this.#rows.splice(queries.length)) row.element.remove(); // another attempt began
    if (running && !this.#running && !still.matches) requestAnimationFrame(() => this.#frame());
    this.#running = running;
    this.#draw();
  }

  /** Nothing more is heard of the job, for now or for good: the clock stands still. */
  stop() {
    this.#running = false;
    this.#draw();
  }

  /**
   * The two bars. Unless it was measured, the second is only the queries' times added up, and no speed-up:
   * on busy cores each of them takes longer beside the others than it would alone.
   */
  compare(parallel, sequential, measured) {
    const [beside, after] = this.comparison.querySelectorAll(".bar");
    const [first, second] = this.comparison.querySelectorAll(".value");
    const most = Math.max(parallel, sequential, 1);
    this.comparison.hidden = false;
    beside.style.width = `${(parallel / most) * 100}%`;
    after.style.width = `${(sequential / most) * 100}%`;
    first.textContent = format.time(parallel);
    const factor = (sequential / Math.max(parallel, 1)).toFixed(1);
    second.textContent = `${format.time(sequential)} (${factor}${measured ? "×" : " at once"})`;
    this.comparison.querySelector(".after-name").textContent = measured ? "one after another" : "added up";
    this.comparison.querySelector(".how").textContent = measured ? "measured" : "all query times";
  }

  #frame() {
    if (!this.#running) return;
    this.#draw();
    requestAnimationFrame(() => this.#frame());
  }

  #row() {
    const row = {
      name: html("span", { class: "name" }),
      queued: html("span", { class: "queued" }),
      bar: html("span", { class: "bar" }),
      value: html("span", { class: "value" }),
    };
    row.element = html("li", {}, row.name, html("span", { class: "track" }, row.queued, row.bar), row.value);
    this.list.append(row.element);
    return row;
  }

  #draw() {
    const now = this.#known + (this.#running ? performance.now() - this.#heard : 0);
    const span = Math.max(now, 50) * (this.#running ? 1.08 : 1);
    const percent = (ms) => `${((ms / span) * 100).toFixed(2)}%`;
    this.#queries.forEach((query, index) => {
      const row = this.#rows[index];
      const started = query.started ?? query.finished ?? now;
      const finished = query.finished ?? now;
      row.name.textContent = query.label ?? query.name;
      row.element.className = `${query.mode ?? "async"} ${query.status}`;
      row.element.dataset.tip = told(query);
      place(row.queued, percent(query.scheduled), percent(started - query.scheduled));
      place(row.bar, percent(started), percent(finished - started));
      row.value.textContent = query.started === null ? "queued" : format.time(finished - started);
    });
  }
}

function place(element, left, width) {
  element.style.left = left;
  element.style.width = width;
}

function told(query) {
  const why = (query.reason ?? "").replace("_", " ");
  const where = query.mode === "foreground" ? `in the foreground (${why})` : "async";
  const waited = query.started === null ? "" : `, queued ${format.time(query.started - query.scheduled)}`;
  return `${query.name}: ${query.status}, ${where}${waited}`;
}
