// SVG by hand: elements, scales and axes that the charts share.

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function scale([from, to], [low, high]) {
  const width = to - from || 1;
  return (value) => low + ((value - from) / width) * (high - low);
}

/** Round values that divide the domain into about `count` steps. */
export function ticks(low, high, count = 4) {
  const rough = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1000; value += step) {
    found.push(value + 0); // never −0
  }
  return found;
}

export const format = {
  whole: (value) => Math.round(value).toLocaleString("en-US"),
  short: (value) =>
    new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 }).format(value),
  minutes: (value) => (value === null ? "–" : `${Number(value).toFixed(1)} min`),
  time: (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`),
  bytes: (bytes) => (bytes < 1024 ? `${bytes} B` : `${(bytes / 1024).toFixed(1)} KiB`),
};

export const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** What a job is called where there is room for a few words. */
export function reportName(job, { origin, month } = {}) {
  if (job !== "airport_report") return job || "a job";
  return `${origin ?? "JFK"}, ${month ? MONTHS[month - 1] : "whole year"}`;
}

/** Draw into `box` at its real width, now and whenever that changes, so that text keeps its size. */
export function drawn(box, draw) {
  let width = 0;
  new ResizeObserver(() => {
    const now = Math.floor(box.clientWidth);
    if (now && now !== width) box.replaceChildren(draw((width = now)));
  }).observe(box);
  return box;
}

export function canvas(width, height, label) {
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
}

/** Horizontal lines with their values at the left. */
export function grid(area, y, values, show) {
  return values.flatMap((value) => [
    svg("line", {
      x1: area.left,
      x2: area.right,
      y1: y(value),
      y2: y(value),
      class: value ? "grid" : "axis",
    }),
    svg("text", { x: area.left - 6, y: y(value) + 4, class: "tick end" }, show(value)),
  ]);
}

/** Labels under the columns, as many as have room. */
export function labels(texts, x, y, room) {
  const every = Math.max(1, Math.ceil((Math.max(...texts.map((text) => text.length)) * 6.5 + 8) / room));
  return texts.map((text, index) =>
    index % every ? null : svg("text", { x: x(index), y, class: "tick middle" }, text),
  );
}
