// Labels beside points, so that none lies on another: of each point's places that are free, the best.

const LETTER = 9; // px: a capital letter of the labels' font, with its halo, wide enough for all of them
const HEIGHT = 13;
const GAP = 3;

/**
 * Where the labels go: of each point `{x, y, r, text}` (px), in order of importance, `{x, y, text}` with the label's
 * left end and its baseline. A label that has no room is left out, unless its point is `needed`. Nothing lies on an
 * obstacle `{x, y, r}`, and as little as may be on the `crowd` of other points.
 */
export function place(points, width, height, obstacles, crowd) {
  const taken = obstacles.map(bounds);
  const others = crowd.map(bounds);
  const hidden = (box) => others.filter((other) => overlap(box, other)).length;
  const placed = [];
  for (const point of points) {
    const boxes = around(point).filter((box) => inside(box, width, height));
    const free = boxes.filter((box) => !taken.some((other) => overlap(box, other)));
    const [best] = free.sort((one, other) => hidden(one) - hidden(other)); // stable: the first of the best
    const box = best ?? (point.needed ? boxes[0] : undefined);
    if (!box) continue;
    taken.push(box);
    placed.push({ x: box.left, y: box.bottom - 3, text: point.text });
  }
  return placed;
}

/** The places around a point: at the sides first, then above and below, then farther out. */
function around({ x, y, r, text }) {
  const wide = text.length * LETTER;
  const at = (left, top) => ({ left, right: left + wide, top, bottom: top + HEIGHT });
  const places = (away) => [
    at(x - away - wide, y - HEIGHT / 2),
    at(x + away, y - HEIGHT / 2),
    at(x - wide / 2, y - away - HEIGHT),
    at(x - wide / 2, y + away),
    at(x - away - wide, y - HEIGHT - GAP),
    at(x + away, y - HEIGHT - GAP),
    at(x - away - wide, y + GAP),
    at(x + away, y + GAP),
  ];
  return [...places(r + GAP), ...places(r + 4 * GAP)];
}

function bounds({ x, y, r }) {
  return { left: x - r, right: x + r, top: y - r, bottom: y + r };
}

function inside({ left, right, top, bottom }, width, height) {
  return left >= 0 && right <= width && top >= 0 && bottom <= height;
}

function overlap(one, other) {
  return one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom;
}
