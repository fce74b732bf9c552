// The charts: each takes plain data and returns what draws it at a given width.

import { canvas, format, grid, html, labels, scale, svg, ticks } from "./svg.js";

const HEIGHT = 190;
const WIDEST = 46; // of a column

function describe(title, data, show) {
  return `${title}. ${data.map((item) => `${item.label}: ${show(item.value)}`).join("; ")}`;
}

function frame(width, low, high) {
  const area = { left: 38, right: width - 4, top: 10, bottom: HEIGHT - 22 };
  const values = ticks(low, high);
  const y = scale(
    [Math.min(low, values[0]), Math.max(high, values.at(-1))],
    [area.bottom, area.top],
  );
  return { area, values, y };
}

/** Columns: [{label, value, tip, strong}]. */
export function columns(title, data, { show = format.minutes, axis = format.short } = {}) {
  return (width) => {
    const low = Math.min(0, ...data.map((item) => item.value));
    const { area, values, y } = frame(width, low, Math.max(1, ...data.map((item) => item.value)));
    const step = (area.right - area.left) / data.length;
    const gap = Math.max(Math.min(6, step * 0.22), step - WIDEST);
    const marks = data.map((item, index) => {
      const top = y(Math.max(item.value, 0));
      const height = Math.max(Math.abs(y(item.value) - y(0)), 0.75);
      return svg("rect", {
        x: area.left + index * step + gap / 2,
        y: top,
        width: Math.max(step - gap, 1),
        height,
        rx: Math.min(2.5, height / 2),
        class: `mark${item.strong ? " strong" : ""}${item.weak ? " weak" : ""}`,
        "data-tip": item.tip ?? `${item.label}: ${show(item.value)}`,
      });
    });
    const centre = (index) => area.left + (index + 0.5) * step;
    const picture = canvas(width, HEIGHT, describe(title, data, show));
    const texts = labels(data.map((item) => item.label), centre, HEIGHT - 6, step);
    picture.append(...grid(area, y, values, axis), ...marks, ...texts.filter(Boolean));
    return picture;
  };
}

/** A line with a faint area under it: [{label, value, tip, strong}]. */
export function line(title, data, { show = format.minutes, axis = format.short } = {}) {
  return (width) => {
    const low = Math.min(0, ...data.map((item) => item.value));
    const { area, values, y } = frame(width, low, Math.max(1, ...data.map((item) => item.value)));
    const step = (area.right - area.left) / data.length;
    const centre = (index) => area.left + (index + 0.5) * step;
    const points = data.map((item, index) => [centre(index), y(item.value)]);
    const path = `M${points.map(([x, at]) => `${x.toFixed(1)},${at.toFixed(1)}`).join("L")}`;
    const under = `${path}L${points.at(-1)[0]},${y(0)}L${points[0][0]},${y(0)}Z`;
    const picture = canvas(width, HEIGHT, describe(title, data, show));
    picture.append(
      ...grid(area, y, values, axis),
      svg("path", { d: under, class: "under" }),
      svg("path", { d: path, class: "line" }),
      ...data.map((item, index) =>
        svg("circle", {
          cx: points[index][0],
          cy: points[index][1],
          r: item.strong ? 6 : 4,
          class: `dot${item.strong ? " strong" : ""}`,
          "data-tip": item.tip ?? `${item.label}: ${show(item.value)}`,
        }),
      ),
      ...labels(data.map((item) => item.label), centre, HEIGHT - 6, step).filter(Boolean),
    );
    return picture;
  };
}

/** Horizontal bars with their names, as a list that needs no width: [{label, value, tip, note}]. */
export function bars(data, { show = format.minutes } = {}) {
  const most = Math.max(1, ...data.map((item) => item.value));
  const list = html("ul", { class: "bars" });
  for (const item of data) {
    const bar = html("span", { class: "bar" });
    bar.style.width = `${Math.max((item.value / most) * 100, 0.5)}%`;
    list.append(
      html(
        "li",
        { "data-tip": item.tip },
        html("span", { class: "name" }, item.label),
        html("span", { class: "track" }, bar),
        html("span", { class: "value" }, show(item.value)),
      ),
    );
  }
  return list;
}

export function table(headings, rows) {
  const cell = (tag) => (content, column) =>
    html(tag, { class: headings[column].number && "number", scope: tag === "th" && "col" }, content);
  return html(
    "div",
    { class: "scroll", tabindex: 0, role: "group", "aria-label": "table, scrolls sideways" },
    html(
      "table",
      {},
      html("thead", {}, html("tr", {}, ...headings.map(({ text }, column) => cell("th")(text, column)))),
      html("tbody", {}, ...rows.map((row) => html("tr", {}, ...row.map(cell("td"))))),
    ),
  );
}
