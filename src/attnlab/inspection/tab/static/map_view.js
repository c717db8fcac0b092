// Draws one attention map and the colour bar. Nothing here fetches or knows a page, so the same file can be loaded by the
// TensorBoard tab and written into a page that stands alone.
//
//   drawMap(canvas, map, look)       a labelled map, or the part of it that is looked at; gives back where its cells are
//   markCell(canvas, place, cell, colours)   outlines a row, a column and their cell on a canvas above the map
//   drawThumbnail(canvas, map, look) the map alone, in a square of look.size pixels
//   drawLegend(canvas, scale, colours)       the colour bar with its numbers
//
// A map is {weights: Float32Array, rows, columns, tokens, keys, first, causal}, row by row; `tokens` name the rows, `keys`
// the columns, `first` is the token of the first column (0 if left out), `causal` says that no token reads later ones; a look
// {scale, colours, ...}. Tokens never become HTML.

import { N_COLOURS, numberOf, short } from "./colours.js";
import { fit, FONT, prepare, printable, turned } from "./pen.js";

const [TIGHT, LABEL_PITCH] = [9, 12]; // pixels between two labels: of every token, and of some
const MOST_LABEL = 96; // pixels; longer labels are cut
const pictures = new WeakMap(); // from a map to its picture, so that zooming paints no weight again
const margins = new WeakMap(); // from a map to the room that its labels need

/** One pixel per weight. What a token can never read, because it comes later, is grey. */
function pixels(map, { scale, colours }) {
  const earlier = pictures.get(map);
  if (earlier && earlier.scale === scale && earlier.colours === colours) return earlier.canvas;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [map.columns, map.rows];
  const image = new ImageData(map.columns, map.rows);
  const table = scale.signed ? colours.diverging : colours.sequential;
  const fixed = (colour) => Uint8Array.of(...[1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)));
  const [never, wrong] = [fixed(colours.never), fixed(colours.mark)];
  for (let i = 0, n = 0; i < map.rows; i++) {
    for (let j = 0; j < map.columns; j++, n++) {
      const w = map.weights[n];
      const special = map.causal && w === 0 && j + (map.first ?? 0) > i ? never : Number.isNaN(w) ? wrong : null;
      const [from, k] = special ? [special, 0] : [table, numberOf(w, scale)];
      for (let c = 0; c < 3; c++) image.data[4 * n + c] = from[k + c];
      image.data[4 * n + 3] = 255;
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  pictures.set(map, { scale, colours, canvas });
  return canvas;
}

/** Pixels that the labels need on the left and above. */
export function marginsOf(map) {
  if (!margins.has(map)) {
    const ruler = document.createElement("canvas").getContext("2d");
    ruler.font = `13px ${FONT}`;
    const room = (labels) => 10 + Math.ceil(labels.reduce((most, l) => Math.max(most, Math.min(MOST_LABEL, ruler.measureText(printable(l)).width)), 20));
    margins.set(map, { left: room(map.tokens), top: room(map.keys) });
  }
  return margins.get(map);
}

/** A map with its tokens on the left (queries) and above (keys). Of a larger map `look.from` {row, column} is the first cell
 *  in sight, and `look.box` {width, height} the pixels that cells may take. Gives back {left, top, cell, at(x, y), ...}. */
export function drawMap(canvas, map, look) {
  const { colours, cell, from = { row: 0, column: 0 } } = look;
  const { width, height } = look.box ?? { width: map.columns * cell, height: map.rows * cell };
  const { left, top } = marginsOf(map);
  const every = cell >= TIGHT ? 1 : Math.ceil(LABEL_PITCH / cell);
  const pen = prepare(canvas, left + width + 8, top + height + 8);
  pen.fillStyle = colours.page;
  pen.fillRect(0, 0, left + width + 8, top + height + 8);
  pen.drawImage(pixels(map, look), from.column, from.row, width / cell, height / cell, left, top, width, height);
  pen.strokeStyle = colours.line;
  pen.strokeRect(left - 0.5, top - 0.5, width + 1, height + 1);
  pen.font = `${Math.max(TIGHT, Math.min(13, cell - 1))}px ${FONT}`;
  pen.fillStyle = colours.ink;
  pen.textBaseline = "middle";
  const each = (labels, first, pixels, draw) => {
    const last = Math.min(labels.length, first + pixels / cell);
    for (let i = Math.ceil(first / every - 0.5 / every) * every; i + 0.5 <= last; i += every) {
      if (i + 0.5 >= first) draw(fit(pen, printable(labels[i]), MOST_LABEL), (i - first + 0.5) * cell);
    }
  };
  pen.textAlign = "right";
  each(map.tokens, from.row, height, (label, y) => pen.fillText(label, left - 6, top + y));
  pen.textAlign = "left";
  each(map.keys, from.column, width, (label, x) => turned(pen, label, left + x, top - 6, -Math.PI / 2));
  const at = (x, y) => {
    const [column, row] = [Math.floor((x - left) / cell + from.column), Math.floor((y - top) / cell + from.row)];
    const inside = y >= top && y < top + height && x < left + width && row < map.rows && column < map.columns;
    return inside ? { row, column: x < left ? null : column } : null; // left of the map stand the queries' names
  };
  return { left, top, cell, from, width, height, every, at };
}

/** On a canvas that lies above a map: outline a row, a column and their cell; `null` clears it. */
export function markCell(canvas, place, mark, colours) {
  const { left, top, cell, from, width, height } = place;
  const pen = prepare(canvas, left + width + 8, top + height + 8);
  if (!mark) return;
  const [x, y] = [left + ((mark.column ?? 0) - from.column) * cell, top + (mark.row - from.row) * cell];
  const inRow = y > top - cell && y < top + height;
  const inColumn = mark.column !== null && mark.column !== undefined && x > left - cell && x < left + width;
  pen.strokeStyle = colours.mark;
  pen.globalAlpha = 0.75;
  if (inRow) pen.strokeRect(left - 0.5, y - 0.5, width + 1, cell + 1);
  if (inColumn) pen.strokeRect(x - 0.5, top - 0.5, cell + 1, height + 1);
  pen.globalAlpha = 1;
  pen.lineWidth = 2;
  if (inRow && inColumn) pen.strokeRect(x - 1, y - 1, cell + 2, cell + 2);
}

/** The map alone in a square of `look.size` pixels. */
export function drawThumbnail(canvas, map, look) {
  const pen = prepare(canvas, look.size, look.size);
  pen.drawImage(pixels(map, look), 0, 0, look.size, look.size);
}

/** The colour bar of a scale with its numbers, 320 x 34 pixels. */
export function drawLegend(canvas, scale, colours) {
  const [x, width, height] = [18, 284, 12];
  const pen = prepare(canvas, 320, 34);
  const table = scale.signed ? colours.diverging : colours.sequential;
  for (let i = 0; i < width; i++) {
    const n = 3 * Math.round((i / (width - 1)) * (N_COLOURS - 1));
    pen.fillStyle = `rgb(${table[n]}, ${table[n + 1]}, ${table[n + 2]})`;
    pen.fillRect(x + i, 1, 1, height);
  }
  pen.strokeStyle = colours.line;
  pen.strokeRect(x - 0.5, 0.5, width + 1, height + 1);
  pen.fillStyle = colours.soft;
  pen.font = `11px ${FONT}`;
  pen.textAlign = "center";
  const taken = [];
  const first = (tick) => (tick === 0 ? Infinity : Math.abs(tick)); // 0 and the large weights keep their numbers
  for (const tick of [...scale.ticks].sort((a, b) => first(b) - first(a) || 0)) {
    const at = x + (scale.signed ? (scale.place(tick) + 1) / 2 : scale.place(tick)) * (width - 1);
    const half = pen.measureText(short(scale.signed ? -Math.abs(tick) : tick, 3)).width / 2; // the same on both sides
    pen.fillRect(at, height + 2, 1, 4);
    if (taken.some(([from, to]) => at - half - 4 < to && at + half + 4 > from)) continue;
    pen.fillText(short(tick, 3), at, height + 17);
    taken.push([at - half, at + half]);
  }
}

