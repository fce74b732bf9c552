// What others run: events that the job publishes to a group, which every visitor hears.

import { format, html, reportName } from "./svg.js";

export const GROUP = "group:flights";
const SHOWN = 6;

export class Others {
  #list;
  #rows = new Map(); // job id → its row, which changes when the report is ready

  constructor(list, empty) {
    this.#list = list;
    this.empty = empty;
  }

  hear({ type, data }, mine) {
    const { job, guest, origin, month } = data;
    const row = this.#rows.get(job) ?? html("li");
    if (row.dataset.type === "report.ready") return; // the log and the connection may both bring it
    row.dataset.type = type;
    const told = {
      "report.started": "is running",
      "report.ready": `${format.whole(data.flights ?? 0)} flights, ${format.minutes(data.mean_delay ?? null)} late`,
    };
    const badge = html("span", { class: `badge ${type === "report.ready" ? "good" : "wait"}` }, told[type] ?? type);
    const who = mine ? "you" : `guest ${guest}`;
    row.replaceChildren(html("span", { class: "what" }, reportName("airport_report", { origin, month })), html("span", {}, who), badge);
    if (!this.#rows.has(job)) this.#list.prepend(row);
    this.#rows.set(job, row);
    while (this.#list.children.length > SHOWN) this.#list.lastChild.remove();
    this.empty.hidden = true;
  }
}
