// One row of a map: as bars, and as coloured text. A row is {values, tokens, query, causal}, query null if none of the tokens;
// a look {scale, colours, ...}. Tokens never become HTML.

import { cssColour, short } from "./colours.js";
import { fit, FONT, prepare, printable, turned } from "./pen.js";

const PITCH = 12; // pixels between two labels

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
  const every = Math.ceil(PITCH / step);
  row.values.forEach((value, j) => {
    const long = ((value || 0) / top) * (zero - 4);
    const thick = Math.max(0.5, step - (step > 4 ? 1 : 0));
    pen.fillStyle = value < 0 ? colours.mark : colours.curve; // seen on light and dark pages, however small the weight
    const bar = [left + j * step, Math.min(zero, zero - long), thick, Math.abs(long)];
    pen.fillRect(...bar);
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
