// A curve over the steps of training for each run, with what they are compared with. Steps are on a log scale.

import { short } from "./colours.js";
import { words } from "./dom.js";
import { FONT, line, prepare } from "./pen.js";

export const [WIDTH, HEIGHT] = [280, 132];
const [LEFT, BOTTOM] = [52, 20];

/** Draws curves [{points, colour, style}] (style "own", "pale" or "reference" with a `name`) and gives back {x(step), y(value)}.
 *  `step` is marked, `pointed` too if given; `emergence` is a point of the first curve. */
export function drawChart(canvas, curves, { colours, step, last, emergence, pointed = null }) {
  const pen = prepare(canvas, WIDTH, HEIGHT);
  pen.fillStyle = colours.page;
  pen.fillRect(0, 0, WIDTH, HEIGHT);
  const values = curves.flatMap(({ points }) => points.map((p) => p[1]));
  let [low, high] = values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
  if (low > 0 && low < high / 2) low = 0;
  if (high - low < 1e-9) [low, high] = [low - 0.5, high + 0.5];
  const x = (at) => LEFT + (Math.log1p(at) / Math.log1p(last)) * (WIDTH - LEFT - 8);
  const y = (value) => 6 + (1 - (value - low) / (high - low)) * (HEIGHT - BOTTOM - 10);
  pen.font = `11px ${FONT}`;
  pen.fillStyle = colours.soft;
  pen.strokeStyle = colours.line;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  const ticks = [low, (low + high) / 2, high];
  const digits = [3, 4, 5].find((n) => new Set(ticks.map((value) => short(value, n))).size === 3) ?? 6;
  for (const value of ticks) {
    pen.fillText(short(value, digits), LEFT - 6, y(value));
    line(pen, [[LEFT, y(value)], [WIDTH - 8, y(value)]]);
  }
  pen.textAlign = "center";
  const places = [0, ...[1, 10, 100, 1000, 10000, 100000, 1000000].filter((at) => at < last / 2), last];
  let free = -Infinity;
  for (const at of places) {
    const middle = Math.min(x(at), WIDTH - 14);
    if (middle - free < 26) continue;
    pen.fillText(String(at), middle, HEIGHT - 8);
    free = middle;
  }
  for (const { points, colour, style, name } of curves) {
    const way = points.map(([at, value]) => [x(at), y(value)]);
    pen.setLineDash(style === "reference" ? [4, 3] : []);
    pen.strokeStyle = style === "own" ? colour : colours.soft;
    pen.globalAlpha = style === "pale" ? 0.45 : 1;
    pen.lineWidth = style === "own" ? 2 : 1;
    line(pen, way);
    pen.globalAlpha = 1;
    pen.lineWidth = 1;
    if (style !== "reference" || !way.length) continue;
    pen.textAlign = "left";
    pen.fillStyle = colours.soft;
    pen.fillText(words(name), LEFT + 4, way[0][1] + (way[0][1] > 20 ? -7 : 9));
  }
  if (emergence) {
    pen.setLineDash([2, 3]);
    pen.strokeStyle = pen.fillStyle = emergence.colour;
    line(pen, [[x(emergence.at), y(emergence.value)], [x(emergence.at), HEIGHT - BOTTOM]]);
    pen.beginPath(); // a triangle that stands on the axis of the steps
    [[0, -9], [-5, 0], [5, 0]].forEach(([dx, dy]) => pen.lineTo(x(emergence.at) + dx, HEIGHT - BOTTOM + dy));
    pen.fill();
  }
  pen.setLineDash([]);
  const mark = (at, colour) => {
    pen.strokeStyle = colour;
    pen.lineWidth = 1.5;
    line(pen, [[x(at), 4], [x(at), HEIGHT - BOTTOM]]);
    for (const { points, style } of curves) {
      const here = style === "own" && points.filter(([s]) => s <= at).pop();
      if (!here) continue;
      pen.beginPath();
      pen.arc(x(here[0]), y(here[1]), 3.5, 0, 7);
      pen.fillStyle = colour;
      pen.fill();
    }
  };
  mark(step, colours.mark);
  if (pointed !== null && pointed !== step) mark(pointed, colours.soft);
  return { x, y };
}
