// The page: controls on one side, the client on the other, and one job at a time in view.

import { Client } from "./client.js";
import { Delivery, Submitted } from "./delivery.js";
import { enableCopy, enableTips, showCurl, showEvent } from "./inspector.js";
import { QUERIES, show } from "./report.js";
import { names } from "./transports.js";
import { Waterfall } from "./waterfall.js";

const by = (id) => document.getElementById(id);
const controls = by("controls");

const client = new Client();
const submitted = new Submitted();
const delivery = new Delivery(submitted);
const waterfall = new Waterfall(by("waterfall"), by("comparison"));

let inView = ""; // the id of the job whose queries are shown; ids sort by age
let latest = ""; // the report that is drawn
let countdown = 0;

// Controls -----------------------------------------------------------------------------------------

controls.addEventListener("submit", (event) => {
  event.preventDefault();
  submit("airport_report", reportParams());
});
controls.addEventListener("change", () => showCurl("airport_report", reportParams()));
for (const button of controls.querySelectorAll("[data-job]")) {
  button.addEventListener("click", () => submit(button.dataset.job, {}));
}
for (const choice of document.getElementsByName("transport")) {
  choice.addEventListener("change", () => client.use(choice.value));
}
by("offline").addEventListener("change", ({ target }) => {
  if (target.checked) client.goOffline();
  else client.goOnline();
});

function reportParams() {
  const chosen = new FormData(controls);
  const month = chosen.get("month");
  return {
    origin: chosen.get("origin"),
    ...(month && { month: Number(month) }),
    ...(chosen.has("compare") && { compare: true }),
  };
}

async function submit(name, params) {
  const at = Date.now();
  showCurl(name, params);
  fail(null);
  try {
    const { id } = await client.submit(name, params);
    submitted.add(id, name, params, at);
    delivery.accepted(id);
    view(id, name);
  } catch (error) {
    fail(`Not accepted: ${error.message}`);
  }
}

// What comes from the server -----------------------------------------------------------------------

client.addEventListener("state", ({ detail }) => status(detail));
client.addEventListener("live", ({ detail }) => delivery.live(detail));
client.addEventListener("reset", ({ detail }) => delivery.reset(detail));
client.addEventListener("progress", ({ detail }) => {
  if (!view(detail.job) || finished.has(detail.job)) return;
  waterfall.update(named(detail.queries ?? [], detail.job), true);
  progress(detail.value, detail.message);
});
client.addEventListener("event", async ({ detail }) => {
  delivery.event(detail);
  showEvent(detail, detail.bytes);
  if (detail.order === "duplicate" || !detail.event.final) return;
  finished.add(detail.event.job);
  const data = await client.data(detail.event).catch((error) => {
    fail(`The result could not be fetched: ${error.message}`);
  });
  ended(detail.event, data);
});

const finished = new Set();

function ended(event, data) {
  if (view(event.job, event.name)) {
    progress(null);
    if (data?.queries) waterfall.update(named(data.queries, event.job, event.name), false);
    else waterfall.stop();
    if (data?.sequential_ms) waterfall.compare(data.parallel_ms, data.sequential_ms, data.measured);
    if (event.error) fail(`${event.name}: ${event.error.detail ?? event.error.title}`);
  }
  if (event.name === "airport_report" && data && event.job > latest) {
    latest = event.job;
    show(by("charts"), data);
  }
}

/** Turn to this job if it is newer than the one in view. Says whether it is the one in view now. */
function view(job, name) {
  if (job > inView) {
    inView = job;
    waterfall.begin();
    fail(null);
    if (!finished.has(job)) progress(0, "queued");
  }
  if (job !== inView) return false;
  by("job-name").textContent = name ?? submitted.get(job)?.name ?? "";
  return true;
}

function named(queries, job, name = submitted.get(job)?.name) {
  by("waterfall-empty").hidden = queries.length > 0;
  if (name !== "airport_report") return queries;
  const label = (index) => QUERIES[index % QUERIES.length].replace("_", " ");
  return queries.map((query, index) => ({ ...query, label: label(index) }));
}

// What the page says -------------------------------------------------------------------------------

function status({ state, detail, until, transport }) {
  clearInterval(countdown);
  by("status").dataset.state = state;
  const texts = {
    connecting: detail ? `Connecting: ${detail}` : "Connecting",
    live: `Live by ${names[transport]}`,
    offline: "Offline",
    waiting: "Connection lost, trying again",
    stopped: `Stopped: ${detail}`,
  };
  by("status-text").textContent = texts[state];
  const clock = by("status-countdown"); // apart, or a screen reader would read it out as it runs
  clock.hidden = state !== "waiting";
  const tick = () => (clock.textContent = `in ${Math.max((until - Date.now()) / 1000, 0).toFixed(1)} s`);
  if (state === "waiting") countdown = setInterval(tick, 100, tick());
  const offline = state === "offline";
  if (offline) delivery.offline();
  if (state !== "live") waterfall.stop();
  for (const button of controls.querySelectorAll("button")) button.disabled = offline;
}

function progress(value, message = "") {
  by("progress").hidden = value === null;
  by("progress-bar").value = value ?? 0;
  by("progress-text").textContent = message;
}

function fail(text) {
  by("problem").hidden = !text;
  by("problem").textContent = text ?? "";
}

enableCopy();
enableTips();
showCurl("airport_report", reportParams());
delivery.count();
client.goOnline();
