// The airport report as cards: what each chart is called and which part of the result it draws.

import { bars, columns, line, table } from "./charts.js";
import { map } from "./map.js";
import { drawn, format, html, MONTHS } from "./svg.js";

const AIRPORTS = { EWR: "Newark", JFK: "John F. Kennedy", LGA: "LaGuardia" };
const RAIN = { 0: "none", 1: "trace", 2: "light", 10: "moderate", 30: "heavy" };

/** The report's queries in the order the job asks them: the service names them by model and kind only. */
export const QUERIES = [
  "destinations", "percentiles", "hours", "wind", "visibility", "rain", "plane_age", "months", "carriers",
  "histogram", "worst", "planes", "airports", "flights", "cancelled", "mean_delay", "longest_delay", "miles",
];

/** Replace what `box` shows by the report. */
export function show(box, report) {
  const { series } = report;
  box.replaceChildren(
    headline(report),
    ...numbers(report.summary, series),
    where(report),
    picture("Hour of departure", "Mean delay; it adds up through the day", "", (title) =>
      columns(title, series.hours.filter(departed).map(byHour)),
    ),
    picture("Month by month", "Mean delay over the year", "", (title) =>
      line(title, series.months.map((row) => byMonth(row, report.month))),
    ),
    card("Carriers", "Mean delay", "", bars(series.carriers.filter(departed).map(byCarrier))),
    picture("How late, how often", "Flights by minutes of delay; 180 is that and more", "", (title) =>
      columns(title, series.histogram.map(byDelay), { show: flightsOf }),
    ),
    banded("Wind", "Mean delay by miles an hour", series.wind, (row) => band(row, 5, 30)),
    banded("Visibility", "Mean delay by miles", series.visibility, (row) => band(row, 2, 10)),
    banded("Rain", "Mean delay by how hard it falls", series.rain, (row) => RAIN[row.bucket]),
    banded("Age of the plane", "Mean delay by years since it was built", series.plane_age, aged, ""),
    picture("Percentiles", "So many of a hundred flights left later than this", "", (title) =>
      columns(title, series.percentiles.filter((row) => row.delay !== null).map(byPercentile)),
    ),
    card("Worst delays", "", "wide", worst(series.worst)),
  );
}

function where({ origin, series }) {
  const section = picture("Where they flew", "Sized by flights, coloured by mean delay", "wide", (title) =>
    map(title, origin, series.destinations, series.airports),
  );
  const key = [["fair", "under 10 min"], ["slow", "10 to 18 min"], ["late", "over 18 min"]];
  const entries = key.map(([kind, text]) => html("span", { class: kind }, text));
  section.append(html("p", { class: "legend" }, ...entries));
  return section;
}

function headline({ origin, month }) {
  const when = month ? `${MONTHS[month - 1]} 2013` : "2013";
  return html("h2", { class: "headline wide" }, `${AIRPORTS[origin]} (${origin}), ${when}`);
}

function numbers({ flights, mean_delay, cancelled, longest_delay, miles }, { planes, percentiles }) {
  const half = percentiles.find((row) => row.percentile === 50)?.delay;
  const most = percentiles.find((row) => row.percentile === 90)?.delay;
  const sign = (value) => `${value ?? "–"}`.replace("-", "−");
  const share = flights ? (cancelled / flights) * 100 : 0;
  const tiles = [
    [format.whole(flights), "flights scheduled"],
    [format.minutes(mean_delay), `mean delay; median ${sign(half)}, one in ten over ${sign(most)}`],
    [`${share.toFixed(1)} %`, `cancelled: ${format.whole(cancelled)}`],
    [`${((longest_delay ?? 0) / 60).toFixed(1)} h`, "the longest delay"],
    [format.short(planes.seats ?? 0), `seats flown, in ${format.whole(planes.planes)} planes`],
    [format.short(miles ?? 0), "miles flown"],
  ];
  const list = html("dl", { class: "tiles wide" });
  for (const [value, text] of tiles) {
    list.append(html("div", {}, html("dt", {}, text), html("dd", {}, value)));
  }
  return [list];
}

function card(title, text, size, content) {
  const heading = html("header", {}, html("h3", {}, title), text ? html("p", {}, text) : null);
  return html("section", { class: `card chart ${size}` }, heading, content);
}

function picture(title, text, size, make) {
  return card(title, text, size, drawn(html("div", { class: "plot" }), make(`${title}: ${text}`)));
}

function banded(title, text, rows, label, size = "third") {
  const data = rows.map((row) => ({
    label: label(row),
    value: row.mean_delay,
    tip: `${label(row)}: ${format.minutes(row.mean_delay)} over ${format.whole(row.flights)} flights`,
  }));
  return picture(title, text, size, (name) => columns(name, data));
}

function flightsOf(value) {
  return `${format.whole(value)} flights`;
}

function departed(row) {
  return row.mean_delay !== null;
}

function aged({ age }) {
  return age === 30 ? "30+" : `${age}`;
}

function band({ bucket }, size, last) {
  return bucket >= last ? `${last}+` : `${bucket}–${bucket + size}`;
}

function byHour({ hour, mean_delay, flights, cancelled }) {
  const tip = `${hour}:00: ${format.minutes(mean_delay)}, ${flightsOf(flights)}, ${cancelled} cancelled`;
  return { label: `${hour}h`, value: mean_delay, tip };
}

function byMonth({ month, mean_delay, flights, cancelled }, chosen) {
  const label = MONTHS[month - 1];
  const tip = `${label}: ${format.minutes(mean_delay)}, ${flightsOf(flights)}, ${cancelled} cancelled`;
  return { label, value: mean_delay ?? 0, tip, strong: month === chosen };
}

function byCarrier({ name, mean_delay, flights, cancelled }) {
  return { label: name, value: mean_delay, tip: `${name}: ${flightsOf(flights)}, ${cancelled} cancelled` };
}

function byPercentile({ percentile, delay }) {
  const label = `${100 - percentile}`;
  return { label, value: delay, tip: `${label} of 100 left more than ${format.minutes(delay)} late` };
}

function byDelay({ delay, flights }) {
  const label = `${delay}`.replace("-", "−");
  const early = `${-delay - 15} to ${-delay} minutes early`;
  const range = delay < 0 ? early : `${delay} to ${delay + 15} minutes late`;
  return { label, value: flights, tip: `${range}: ${flightsOf(flights)}`, weak: delay < 15 };
}

function worst(rows) {
  const headings = [
    { text: "Flight" },
    { text: "Airline" },
    { text: "To" },
    { text: "Day" },
    { text: "Delay", number: true },
  ];
  const day = new Intl.DateTimeFormat("en-US", {
    month: "short",
    day: "numeric",
    timeZone: "America/New_York",
  });
  return table(
    headings,
    rows.map((row) => [
      row.flight,
      row.airline,
      row.destination ?? row.dest,
      day.format(new Date(row.time_hour)),
      `${Math.floor(row.dep_delay / 60)} h ${row.dep_delay % 60} min`,
    ]),
  );
}
