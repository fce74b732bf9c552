// The page: controls on one side, the client on the other, and one job at a time in view.

import { Asked } from "./asked.js";
import { Delivery, size } from "./delivery.js";
import { enableCopy, enableTips, showCurl, showEvent } from "./inspector.js";
import { names, Network } from "./network.js";
import { GROUP, Others } from "./others.js";
import { createClient } from "./pushsvc.js";
import { QUERIES, show } from "./report.js";
import { token } from "./visitor.js";
import { Waterfall } from "./waterfall.js";

const LAST = "pushsvc.demo.last"; // the id of the last event that was shown

const by = (id) => document.getElementById(id);
const controls = by("controls");

const network = new Network();
const { fetch, transports } = network;
const client = createClient({ token: () => token(fetch), fetch, transports });
const asked = new Asked(client);
const delivery = new Delivery(asked);
const others = new Others(by("others"), by("others-empty"));
const waterfall = new Waterfall(by("waterfall"), by("comparison"));

let inView = ""; // the id of the job whose queries are shown; ids sort by age
let expected = null; // the job that was just submitted, until its id is known
let latest = ""; // the report that is drawn
let countdown = 0;
let remembered = false;
const before = localStorage.getItem(LAST); // when this page was opened; nothing at the first visit
const ends = new Map(); // job id → its last event and its data

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
  choice.addEventListener("change", () => network.change({ transport: choice.value }));
}
for (const name of ["offline", "delay", "loss", "blocked"]) {
  by(name).addEventListener("change", ({ target }) => network.change({ [name]: target.checked }));
}
network.addEventListener("change", showNetwork);

function reportParams() {
  const chosen = new FormData(controls);
  const month = chosen.get("month");
  return {
    origin: chosen.get("origin"),
    ...(month && { month: Number(month) }),
    ...(chosen.has("compare") && { compare: true }),
    ...(chosen.has("share") && { share: true }),
  };
}

function submit(name, params) {
  showCurl(name, params);
  const job = asked.submit(name, params);
  expected = job;
  inView = "";
  begin(name);
  progress(0, network.settings.offline ? "waiting to be sent" : "queued");
  const stop = job.watch(() => {
    if (job === expected && job.id) accepted(job);
    if (job.ended) stop();
    if (job === expected && job.ended) progress(null); // taken back, or refused
  });
}

/** The job's id is known now. Its last event may have been faster. */
function accepted(job) {
  expected = null;
  inView = job.id;
  history.replaceState(null, "", `#job=${job.id}`);
  if (ends.has(job.id)) draw(...ends.get(job.id));
}

// What comes from the server -----------------------------------------------------------------------

client.on("status", status);
client.on("reset", (reset) => reset.channel === inbox() && delivery.reset(reset));
client.on("error", (error) => delivery.note(error.message));
client.on("rejected", ({ error }) => fail(`Not accepted: ${error.message}`));
client.on("progress", ({ job, value, message, queries }) => {
  if (!view(job) || ends.has(job)) return;
  waterfall.update(named(queries ?? [], job), true);
  progress(value, message);
});
client.on("event", async (event, where) => {
  if (where.channel !== inbox() || !event.final) return;
  localStorage.setItem(LAST, event.id);
  const { status } = client;
  if (!delivery.event(event, where.position, status)) return;
  showEvent(event, where, status.transport, size(event));
  const data = await dataOf(event);
  ends.set(event.job, [event, data]);
  draw(event, data);
});
client.subscribe(GROUP, hearOthers);

const inbox = () => `user:${client.identity?.user}`;

function hearOthers(event) {
  if (event.type.startsWith("report.")) others.hear(event, asked.get(event.data.job));
}

/** An event's data, fetched if it was too large to travel inside. */
async function dataOf(event) {
  if (!event.ref) return event.data;
  try {
    return await client.job(event.job);
  } catch (error) {
    fail(`The result could not be fetched: ${error.message}`);
  }
}

function draw(event, data, wanted = false) {
  if (view(event.job, event.name)) {
    progress(null);
    if (data?.queries) waterfall.update(named(data.queries, event.job, event.name), false);
    else waterfall.stop();
    if (data?.sequential_ms) waterfall.compare(data.parallel_ms, data.sequential_ms, data.measured);
    if (event.error) fail(`${event.name}: ${event.error.detail ?? event.error.title}`);
  }
  if (data?.series && (wanted || event.job > latest)) {
    latest = event.job;
    show(by("charts"), data);
  }
}

// What was here before -----------------------------------------------------------------------------

/** The inbox as it was when this page was opened; what has come since, the client brings. */
async function remember() {
  if (remembered) return;
  remembered = true;
  try {
    for (const { event } of await kept(GROUP)) hearOthers(event);
    const items = (await kept(inbox())).filter(({ event }) => event.final);
    const shown = items.slice(0, items.findIndex(({ event }) => event.id === before) + 1);
    delivery.history(shown.reverse());
    const report = shown.find(({ event }) => event.name === "airport_report" && !event.error);
    if (report && !latest && !location.hash) draw(report.event, await dataOf(report.event));
  } catch {
    remembered = false; // once more when the connection is back
  }
}

/** All that a channel's log holds. */
async function kept(channel) {
  const found = [];
  for (let cursor = "start", more = true; more; ) {
    const query = new URLSearchParams({ wait: 0, channels: channel, cursor });
    const answer = await client.fetch(`/v1/events?${query}`);
    if (!answer.ok) return found;
    const page = await answer.json();
    found.push(...page.events);
    ({ cursor } = page);
    more = !page.up_to_date;
  }
  return found;
}

/** A link to a report: one that is still running goes on where it is. */
async function open() {
  const id = /^#job=([0-9A-Z]+)$/.exec(location.hash)?.[1];
  if (!id) return;
  expected = null;
  inView = id;
  begin(asked.get(id)?.name ?? "");
  progress(0, "looking it up");
  const job = client.job(id);
  const hear = () => job.latest && id === inView && !job.ended && progress(job.latest.value, job.latest.message);
  job.watch(hear);
  hear();
  try {
    const data = await job;
    draw({ job: id, name: data?.series ? "airport_report" : (asked.get(id)?.name ?? "") }, data, true);
  } catch (error) {
    if (id !== inView) return;
    progress(null);
    fail(error.code === "not_found" ? "There is no such job, or it is another visitor's." : error.message);
  }
}

// What is in view ----------------------------------------------------------------------------------

function begin(name) {
  waterfall.begin();
  by("waterfall-empty").hidden = true;
  by("job-name").textContent = name;
  fail(null);
}

/** Turn to this job if it is newer than the one in view. Says whether it is the one in view now. */
function view(job, name) {
  if (expected && expected.id !== job) return false;
  if (job > inView) {
    inView = job;
    begin("");
    if (!ends.has(job)) progress(0, "queued");
  }
  if (job !== inView) return false;
  by("job-name").textContent = name ?? asked.get(job)?.name ?? "";
  return true;
}

function named(queries, job, name = asked.get(job)?.name) {
  by("waterfall-empty").hidden = queries.length > 0;
  if (name !== "airport_report") return queries;
  const label = (index) => QUERIES[index % QUERIES.length].replace("_", " ");
  return queries.map((query, index) => ({ ...query, label: label(index) }));
}

// What the page says -------------------------------------------------------------------------------

function status(now) {
  const { transport, retryAt, code, shared } = now;
  const state = network.settings.offline ? "offline" : now.state;
  clearInterval(countdown);
  by("status").dataset.state = state;
  const texts = {
    connecting: "Connecting",
    live: `Live by ${names[transport]}`,
    offline: "Offline",
    waiting: "Connection lost, trying again",
    stopped: `Stopped: the server refused (${code})`,
    off: "Not connected",
  };
  const text = by("status-text"); // a screen reader reads it out: only when it changes
  if (text.textContent !== texts[state]) text.textContent = texts[state];
  const clock = by("status-countdown"); // apart, or a screen reader would read it out as it runs
  clock.hidden = state !== "waiting";
  const tick = () => (clock.textContent = `in ${Math.max((retryAt - Date.now()) / 1000, 0).toFixed(1)} s`);
  if (state === "waiting") countdown = setInterval(tick, 100, tick());
  by("shared").dataset.leads = !shared;
  by("shared").textContent = shared
    ? "Another window holds the connection; this one shares it."
    : "This window holds the connection; others share it.";
  delivery.status({ state });
  if (state === "offline") delivery.offline();
  if (state !== "live") waterfall.stop();
  else remember();
}

function showNetwork() {
  const { settings } = network;
  for (const choice of document.getElementsByName("transport")) choice.checked = choice.value === settings.transport;
  for (const name of ["offline", "delay", "loss", "blocked"]) by(name).checked = settings[name];
  status(client.status);
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
showNetwork();
delivery.count();
addEventListener("hashchange", open);
asked.resume().then(open);
