// What is shown, as a file: a picture (PNG, SVG) of its drawings with their titles, or its numbers (CSV).
//
// A sheet is {name, title, items, rows}: the file's name, a line above all, [{title, draw(canvas), own}] where a drawing begins
// a new line if `own`, and a function that gives (a promise of) rows of numbers and texts, the first of them names.

import { fit, FONT, prepare } from "./pen.js";
import { SvgCanvas, svgFile } from "./svg.js";

const [MARGIN, GAP, TITLE] = [20, 24, 24]; // pixels
const WIDEST = 1500; // pixels before a new line of drawings begins

/** Give the browser a file of a sheet to keep; `kind` is png, svg or csv. */
export async function save(kind, sheet, colours) {
  const content = { png: pngOf, svg: svgOf, csv: csvOf }[kind](sheet, colours);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await content);
  link.download = `${sheet.name.replace(/[^\p{L}\p{N}._-]+/gu, "_")}.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Numbers as a table for other programs (RFC 4180). */
export async function csvOf({ rows }) {
  const cell = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replace(/"/g, '""')}"` : String(value));
  return new Blob((await rows()).map((row) => `${row.map(cell).join(",")}\r\n`), { type: "text/csv" });
}

/** The weights of maps as rows; `maps` are [{map, about: [values]}], `names` what the values are called. */
export function mapRows(names, maps) {
  const rows = [[...names, "query", "query_token", "key", "key_token", "value"]];
  for (const { map, about } of maps) {
    for (let i = 0, n = 0; i < map.rows; i++) {
      for (let j = 0; j < map.columns; j++, n++) {
        const never = map.causal && map.weights[n] === 0 && j + map.first > i;
        if (!never) rows.push([...about, i, map.tokens[i], j + map.first, map.keys[j], map.weights[n]]);
      }
    }
  }
  return rows;
}

/** Where each drawing goes. `fresh` gives a canvas for it. */
function laidOut(sheet, fresh) {
  const placed = [];
  let [x, y, high, wide] = [MARGIN, MARGIN + TITLE, 0, 0];
  for (const { title, draw, own = false } of sheet.items) {
    const canvas = fresh();
    draw(canvas);
    const [width, height] = [parseFloat(canvas.style.width), parseFloat(canvas.style.height)];
    if (placed.length && (own || x + width > WIDEST)) [x, y, high] = [MARGIN, y + high + GAP, 0];
    placed.push({ title, canvas, x, y, width, height });
    [x, high, wide] = [x + width + GAP, Math.max(high, height + TITLE), Math.max(wide, x + width)];
  }
  return { placed, width: Math.ceil(Math.max(wide, 480) + MARGIN), height: Math.ceil(y + high + MARGIN) };
}

/** The page with its titles; `put` sets a drawing on it. */
function paint(pen, sheet, { placed, width, height }, colours, put) {
  pen.fillStyle = colours.page;
  pen.fillRect(0, 0, width, height);
  pen.fillStyle = colours.ink;
  pen.font = `15px ${FONT}`;
  pen.fillText(fit(pen, sheet.title, width - 2 * MARGIN), MARGIN, MARGIN + 8);
  for (const { title, canvas, x, y, width } of placed) {
    pen.font = `13px ${FONT}`;
    pen.fillStyle = colours.ink;
    pen.fillText(fit(pen, title, Math.max(width, 200)), x, y + 14);
    put(canvas, x, y + TITLE);
  }
}

/** The sheet as a picture of dots, two for each of the screen. */
export function pngOf(sheet, colours) {
  const fresh = () => Object.assign(document.createElement("canvas"), { ratio: 2 });
  const layout = laidOut(sheet, fresh);
  const canvas = fresh();
  const pen = prepare(canvas, layout.width, layout.height);
  paint(pen, sheet, layout, colours, (one, x, y) => pen.drawImage(one, x, y, one.width / 2, one.height / 2));
  return new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
}

/** The sheet as lines and letters. */
export function svgOf(sheet, colours) {
  const layout = laidOut(sheet, () => new SvgCanvas());
  const canvas = new SvgCanvas();
  const pen = prepare(canvas, layout.width, layout.height);
  paint(pen, sheet, layout, colours, (one, x, y) => pen.parts.push(`<g transform="translate(${x} ${y})">${one.markup}</g>`));
  return new Blob([svgFile(canvas.markup, layout.width, layout.height)], { type: "image/svg+xml" });
}
