// Draws one attention map, one row of it, and the colour bar. Nothing here fetches, keeps state or needs another file,
// so the same file can be loaded by the TensorBoard tab and written into a page that stands alone.
//
//   palette(dark)                    the colours of a page: {page, ink, soft, line, never, sequential, diverging}
//   makeScale({signed, top, mode})   from weight to colour; mode is "sqrt", "linear" or "log"
//   drawMap(canvas, map, look)       a labelled map; gives back where its cells are
//   markCell(canvas, place, cell, colours)   outlines a row, a column and their cell on a canvas above the map
//   drawThumbnail(canvas, map, look) the map alone, in a square of look.size pixels
//   drawLegend(canvas, scale, colours)       the colour bar with its numbers
//   drawBars(canvas, row, look)      one row as bars
//   colourText(element, row, look)   one row as coloured text, one <span> per token
//   printable(token)                 a token in characters that can be seen
//
// A map is {weights: Float32Array, rows, columns, tokens, keys, first, causal}, row by row; `tokens` name the rows, `keys`
// the columns, `first` is the token of the first column (0 if left out), `causal` says that no token reads later ones. A row is
// {values, tokens, query, causal}, query null if none of the tokens; a look {scale, colours, ...}. Tokens never become HTML.

// The anchors of the PNG pictures; the path between them is straight in OKLab and walked at constant speed.
export const SEQUENTIAL = ["#fffcef", "#c5e5bd", "#58b8a4", "#1f7fa3", "#274888", "#1c0f45"];
export const DIVERGING = ["#08306b", "#2f78b7", "#a3cbe4", "#fbfaf6", "#f6bd96", "#cf553b", "#67001f"];
const SEQUENTIAL_DARK = ["#14161c", "#233a63", "#216f96", "#3fa79b", "#a5d9a8", "#fffbe0"];
const DIVERGING_DARK = ["#b5e0ff", "#4a9fe0", "#1d4468", "#14161c", "#6b2b20", "#e0694a", "#ffd0b5"];
const FONT = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
const N_COLOURS = 255; // odd, so that a diverging table has a middle
const [TIGHT, LABEL_PITCH] = [9, 12]; // pixels between two labels: of every token, and of some
const MOST_LABEL = 96; // pixels; longer labels are cut

function oklab(colour) {
  const [r, g, b] = [1, 3, 5].map((i) => {
    const c = parseInt(colour.slice(i, i + 2), 16) / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s, 0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s];
}

function rgb([L, a, b]) {
  const l = (L + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (L - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (L - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const light = [4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s, -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s];
  return light.map((c) => {
    const x = Math.min(1, Math.max(0, c));
    return Math.round(255 * (x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055));
  });
}

/** N_COLOURS colours through the anchors as red, green, blue bytes, each step looking as large as every other. */
export function blend(anchors) {
  const labs = anchors.map(oklab);
  const between = (x) => {
    const i = Math.min(Math.floor(x), labs.length - 2);
    return labs[i].map((v, k) => v + (labs[i + 1][k] - v) * (x - i));
  };
  const fine = 64 * (labs.length - 1);
  const length = [0];
  for (let i = 1; i <= fine; i++) {
    const [p, q] = [between((i - 1) / 64), between(i / 64)];
    length.push(length[i - 1] + Math.hypot(...q.map((v, k) => v - p[k])));
  }
  const table = new Uint8Array(3 * N_COLOURS);
  for (let n = 0, i = 0; n < N_COLOURS; n++) {
    const want = (length[fine] * n) / (N_COLOURS - 1);
    while (i < fine - 1 && length[i + 1] < want) i++;
    const x = (i + (want - length[i]) / (length[i + 1] - length[i])) / 64;
    table.set(rgb(between(Math.min(x, labs.length - 1))), 3 * n);
  }
  return table;
}

const LIGHT = { page: "#ffffff", ink: "#1c2127", soft: "#59626d", line: "#c4c9cf", never: "#e9ebed", mark: "#d9480f",
  curve: "#1f7fa3", sequential: blend(SEQUENTIAL), diverging: blend(DIVERGING) };
const DARK = { page: "#1e2025", ink: "#e8eaed", soft: "#a6adb8", line: "#4a4f59", never: "#2f323a", mark: "#ffb000",
  curve: "#58b8a4", sequential: blend(SEQUENTIAL_DARK), diverging: blend(DIVERGING_DARK) };

/** The colours of a light or a dark page. */
export const palette = (dark) => (dark ? DARK : LIGHT);

/** From weights to places on the colour bar, 0 .. 1 or -1 .. 1; weights beyond `top` get the last colour. */
export function makeScale({ signed = false, top = 1, mode = "sqrt" }) {
  const knee = top / 1000; // where the log scale turns from straight to logarithmic
  const size = { linear: (x) => x / top, sqrt: (x) => Math.sqrt(x / top),
    log: (x) => Math.asinh(x / knee) / Math.asinh(top / knee) }[mode];
  const place = (w) => (w < 0 ? (signed ? -size(Math.min(-w, top)) : 0) : size(Math.min(w, top)));
  const parts = { linear: [0.25, 0.5, 0.75, 1], sqrt: [0.01, 0.1, 0.25, 0.5, 1], log: [0.001, 0.01, 0.1, 1] }[mode];
  const up = parts.map((part) => part * top);
  const ticks = [...(signed ? up.map((t) => -t).reverse() : []), 0, ...up];
  const how = { linear: "linear scale", sqrt: "square-root scale", log: `log scale (linear below ${short(knee)})` }[mode];
  const range = signed ? `−${short(top)} to ${short(top)}, 0 in the middle` : `0 to ${short(top)}`;
  return { signed, top, mode, place, ticks, caption: `${how}, ${range}` };
}

/** A number in few characters: 0.1234, 12.3, 1.2e-5. */
export function short(x, digits = 4) {
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "not a number" : x < 0 ? "−∞" : "∞";
  const text = Math.abs(x) >= 1e-4 || x === 0 ? String(+x.toPrecision(digits)) : x.toExponential(digits - 1);
  return text.replace(/^-/, "−");
}

/** A token in characters that can be seen: spaces as ·, line breaks as \n, what is invisible by its number. */
export function printable(token) {
  return String(token).replace(/ /g, "·").replace(/\n/g, "\\n").replace(/\t/g, "\\t")
    .replace(/[\p{C}\p{Z}]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
}

/** Where the colour of a weight begins in its table. */
function numberOf(weight, scale) {
  const place = scale.place(weight);
  return 3 * Math.round((scale.signed ? (place + 1) / 2 : place) * (N_COLOURS - 1));
}

/** The colour of a weight as CSS, and a colour in which text on it can be read. */
export function cssColour(weight, { scale, colours }) {
  if (Number.isNaN(weight)) return { fill: colours.mark, text: "#000000" };
  const n = numberOf(weight, scale);
  const [r, g, b] = (scale.signed ? colours.diverging : colours.sequential).subarray(n, n + 3);
  return { fill: `rgb(${r}, ${g}, ${b})`, text: 0.3 * r + 0.59 * g + 0.11 * b > 140 ? "#14161c" : "#ffffff" };
}

/** One pixel per weight. What a token can never read, because it comes later, is grey. */
function pixels(map, { scale, colours }) {
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
  return canvas;
}

/** Give a canvas a size in CSS pixels, sharp on dense screens. */
export function prepare(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
  [canvas.style.width, canvas.style.height] = [`${width}px`, `${height}px`];
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.imageSmoothingEnabled = false;
  return pen;
}

function fit(pen, text, width) {
  const cut = [...text];
  if (pen.measureText(text).width <= width) return text;
  while (cut.length && pen.measureText(cut.join("") + "…").width > width) cut.pop();
  return cut.join("") + "…";
}

function turned(pen, text, x, y, angle) {
  pen.save();
  pen.translate(x, y);
  pen.rotate(angle);
  pen.fillText(text, 0, 0);
  pen.restore();
}

/** A map with its tokens on the left (queries) and above (keys). Gives back {left, top, cell, at(x, y)}. */
export function drawMap(canvas, map, look) {
  const { colours, cell } = look;
  const [width, height] = [map.columns * cell, map.rows * cell];
  const font = `${Math.max(TIGHT, Math.min(13, cell - 1))}px ${FONT}`;
  const every = cell >= TIGHT ? 1 : Math.ceil(LABEL_PITCH / cell);
  const ruler = document.createElement("canvas").getContext("2d");
  ruler.font = font;
  const named = (labels) => labels.map(printable).map((l, i) => (i % every ? "" : fit(ruler, l, MOST_LABEL)));
  const [rows, columns] = [named(map.tokens), named(map.keys)];
  const room = (labels) => 10 + Math.ceil(Math.max(20, ...labels.map((l) => ruler.measureText(l).width)));
  const [left, top] = [room(rows), room(columns)];
  const pen = prepare(canvas, left + width + 8, top + height + 8);
  pen.fillStyle = colours.page;
  pen.fillRect(0, 0, left + width + 8, top + height + 8);
  pen.drawImage(pixels(map, look), left, top, width, height);
  pen.strokeStyle = colours.line;
  pen.strokeRect(left - 0.5, top - 0.5, width + 1, height + 1);
  pen.font = font;
  pen.fillStyle = colours.ink;
  pen.textBaseline = "middle";
  pen.textAlign = "right";
  rows.forEach((label, i) => pen.fillText(label, left - 6, top + (i + 0.5) * cell));
  pen.textAlign = "left";
  columns.forEach((label, j) => turned(pen, label, left + (j + 0.5) * cell, top - 6, -Math.PI / 2));
  const at = (x, y) => {
    const [column, row] = [Math.floor((x - left) / cell), Math.floor((y - top) / cell)];
    const inside = row >= 0 && row < map.rows && column < map.columns;
    return inside ? { row, column: column < 0 ? null : column } : null; // left of the map stand the queries' names
  };
  return { left, top, cell, width, height, every, at };
}

/** On a canvas that lies above a map: outline a row, a column and their cell; `null` clears it. */
export function markCell(canvas, place, mark, colours) {
  const pen = prepare(canvas, place.left + place.width + 8, place.top + place.height + 8);
  if (!mark) return;
  pen.strokeStyle = colours.mark;
  const { left, top, cell } = place;
  pen.globalAlpha = 0.75;
  pen.strokeRect(left - 0.5, top + mark.row * cell - 0.5, place.width + 1, cell + 1);
  if (mark.column === null || mark.column === undefined) return;
  pen.strokeRect(left + mark.column * cell - 0.5, top - 0.5, cell + 1, place.height + 1);
  pen.globalAlpha = 1;
  pen.lineWidth = 2;
  pen.strokeRect(left + mark.column * cell - 1, top + mark.row * cell - 1, cell + 2, cell + 2);
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

/** One row as bars, as long as the weights; `look.width` x 150 pixels. Gives back {top, at(x)}, top the longest bar. */
export function drawBars(canvas, row, look) {
  const { colours, width } = look;
  const [height, names, n] = [90, 58, row.values.length];
  const top = row.values.reduce((most, v) => Math.max(most, Math.abs(v) || 0), 0) || 1;
  const signed = row.values.some((v) => v < 0);
  const zero = 4 + (signed ? height / 2 : height);
  const pen = prepare(canvas, width, height + names + 6);
  pen.font = `11px ${FONT}`;
  const marks = signed ? [top, 0, -top] : [top, 0];
  const left = Math.max(40, 8 + Math.ceil(Math.max(...marks.map((value) => pen.measureText(short(value, 3)).width))));
  const step = (width - left - 4) / n;
  pen.textBaseline = "middle";
  const every = Math.ceil(LABEL_PITCH / step);
  pen.strokeStyle = colours.line;
  row.values.forEach((value, j) => {
    const long = ((value || 0) / top) * (zero - 4);
    const thick = Math.max(0.5, step - (step > 4 ? 1 : 0));
    pen.fillStyle = cssColour(value, look).fill;
    const bar = [left + j * step, Math.min(zero, zero - long), thick, Math.abs(long)];
    pen.fillRect(...bar);
    if (step > 6) pen.strokeRect(...bar);
    if (j % every) return;
    pen.fillStyle = j === row.query ? colours.mark : colours.ink;
    turned(pen, fit(pen, printable(row.tokens[j]), names - 8), left + (j + 0.5) * step, height + 10, Math.PI / 2);
  });
  pen.fillStyle = colours.soft;
  pen.fillRect(left, zero, width - left - 4, 1);
  pen.textAlign = "right";
  for (const value of marks) {
    pen.fillText(short(value, 3), left - 4, Math.max(9, zero - (value / top) * (zero - 4)));
  }
  return { top, at: (x) => (x >= left && x < left + n * step ? Math.floor((x - left) / step) : null) };
}

/** One row as text: behind each token the colour of its weight, the querying token framed, later tokens pale. */
export function colourText(element, row, look) {
  element.replaceChildren(...row.tokens.map((token, j) => {
    const span = document.createElement("span");
    const { fill, text } = cssColour(row.values[j], look);
    const later = row.causal && j > row.query && row.values[j] === 0;
    span.textContent = printable(token);
    span.title = short(row.values[j]);
    span.className = j === row.query ? "token query" : "token";
    span.style.cssText = later ? `color: ${look.colours.soft}` : `background: ${fill}; color: ${text}`;
    if (j === row.query) span.style.outline = `2px solid ${look.colours.mark}`;
    return span;
  }));
}
