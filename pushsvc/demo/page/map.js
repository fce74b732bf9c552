// A map without a map: every airport of the country is a faint dot, and the flights are arcs over them.

import { place as placed } from "./labels.js";
import { canvas, format, svg } from "./svg.js";

const HOME = { EWR: [-74.17, 40.69], JFK: [-73.78, 40.64], LGA: [-73.87, 40.78] };
const radians = (degrees) => (degrees * Math.PI) / 180;

// Albers' conic projection with the parallels usual for the United States: equal areas, familiar shape.
const [first, second, middle, meridian] = [29.5, 45.5, 37.5, -96].map(radians);
const n = (Math.sin(first) + Math.sin(second)) / 2;
const c = Math.cos(first) ** 2 + 2 * n * Math.sin(first);
const rho = (lat) => Math.sqrt(c - 2 * n * Math.sin(lat)) / n;

function project(lon, lat) {
  const theta = n * (radians(lon) - meridian);
  return [rho(radians(lat)) * Math.sin(theta), rho(middle) - rho(radians(lat)) * Math.cos(theta)];
}

export function map(title, origin, destinations, airports) {
  const known = destinations.filter((place) => place.lat !== null);
  const most = Math.max(1, ...known.map((place) => place.flights));
  return (width) => {
    const height = Math.round(Math.min(Math.max(width * 0.56, 200), 470));
    const at = fitted(airports, width, height);
    const home = at(...HOME[origin]);
    const named = width > 520 ? 10 : 5;
    const picture = canvas(width, height, `${title}. ${summary(known)}`);
    picture.append(
      ...airports.map(([lon, lat]) => {
        const [x, y] = at(lon, lat);
        return svg("circle", { cx: x, cy: y, r: width / 520, class: "ground" });
      }),
      ...known.map((place) => arc(home, at(place.lon, place.lat), place.flights / most)),
      // The large ones first, so that the small ones lie on top and can be pointed at.
      ...known.map((place) => destination(place, at(place.lon, place.lat), place.flights / most, width)),
      svg("circle", { cx: home[0], cy: home[1], r: 4, class: "home" }),
      ...names(known, named, home, at, most, width, height),
    );
    return picture;
  };
}

/** Alaska and Hawaii lie outside the picture; they are drawn at its edge, with their names. */
function far({ lon }) {
  return lon < -130;
}

function fitted(airports, width, height) {
  const points = airports.map(([lon, lat]) => project(lon, lat));
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  const [left, right, bottom, top] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const zoom = Math.min((width - 40) / (right - left), (height - 24) / (top - bottom));
  const inside = (value, most) => Math.min(Math.max(value, 10), most - 10);
  return (lon, lat) => {
    const [x, y] = project(lon, lat);
    return [
      inside(width / 2 + (x - (left + right) / 2) * zoom, width),
      inside(height / 2 - (y - (top + bottom) / 2) * zoom, height),
    ];
  };
}

function arc([x1, y1], [x2, y2], weight) {
  const lift = Math.hypot(x2 - x1, y2 - y1) * 0.16;
  const path = `M${x1},${y1}Q${(x1 + x2) / 2},${(y1 + y2) / 2 - lift} ${x2},${y2}`;
  const look = { "stroke-width": 0.5 + weight * 2, opacity: 0.14 + weight * 0.4 };
  return svg("path", { d: path, class: "arc", ...look });
}

function destination(place, [x, y], weight, width) {
  const delay = place.mean_delay ?? 0;
  const flights = `${format.whole(place.flights)} flights`;
  return svg("circle", {
    cx: x,
    cy: y,
    r: radius(weight, width),
    class: `place ${delay >= 18 ? "late" : delay >= 10 ? "slow" : "fair"}`,
    "data-tip": `${place.name} (${place.dest}): ${flights}, ${format.minutes(place.mean_delay)} late`,
  });
}

function radius(weight, width) {
  return 2 + Math.sqrt(weight) * Math.min(width / 60, 11);
}

/** The names of the largest, and of those that are not where they seem to be. */
function names(known, count, [x, y], at, most, width, height) {
  const points = known.map((place, index) => {
    const [x, y] = at(place.lon, place.lat);
    const r = radius(place.flights / most, width);
    return { x, y, r, text: place.dest, wanted: index < count || far(place), needed: far(place) };
  });
  const home = { x, y, r: 4 };
  // What has to be named is placed first.
  const wanted = points.filter((point) => point.wanted).sort((one, other) => other.needed - one.needed);
  return placed(wanted, width, height, [home, ...wanted], points).map(({ x, y, text }) =>
    svg("text", { x, y, class: "place-name" }, text),
  );
}

function summary(places) {
  return places.slice(0, 10).map((place) => `${place.name}: ${place.flights} flights`).join("; ");
}
