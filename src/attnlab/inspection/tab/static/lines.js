// Two columns of tokens: a line from each token that reads, on the left, to each that is read, as strong as the weight. Several
// heads lie over each other in colours of their own; a token that is pointed at keeps its lines alone.
//
//   drawLines(canvas, heads, look)   heads are [{map, colour}] of one shape; look {scale, colours, width, token}, token null for all
//   linesPanel(heads, look)          the same on a page, answering to the mouse and to keys

import { short } from "./colours.js";
import { el } from "./dom.js";
import { fit, FONT, line, prepare, printable } from "./pen.js";

const ROW = 20; // pixels of a token
const MANY = 64; // tokens: the lines of all of more are a wall, so that one token's are shown
const IN_SIGHT = 16; // a token that is seen without scrolling
const MOST_LINES = 12_000; // of the largest weights
const NAME = 0.3; // of the width, at most, for each column of tokens
const [BAR, STRIP] = [9, 0.15]; // pixels of a head's square beside a token that is read; the share of the width that all may take

/** The token whose lines are shown where none is chosen: of few tokens null, which is all of them, else one in sight. */
const unchosen = (rows) => (rows > MANY ? IN_SIGHT : null);

/** The lines that are drawn: [place on the scale, row, column, head], the strongest last. */
function strongest(heads, scale, token) {
  const [from, to] = token === null ? [0, heads[0].map.rows] : [token, token + 1];
  const each = (use) => heads.forEach(({ map }, h) => {
    for (let i = from, n = from * map.columns; i < to; i++) {
      for (let j = 0; j < map.columns; j++, n++) {
        const weight = Math.abs(map.weights[n]);
        if (weight > 0) use(scale.place(weight), i, j, h);
      }
    }
  });
  const counts = new Uint32Array(1001); // of lines by their strength, to know below which there are too many
  each((strength) => { counts[Math.round(1000 * strength)] += 1; });
  let least = 1000;
  for (let sum = counts[1000]; least > 4 && sum + counts[least - 1] <= MOST_LINES;) sum += counts[--least];
  const lines = [];
  each((strength, ...where) => { if (Math.round(1000 * strength) >= least) lines.push([strength, ...where]); });
  return { lines: lines.sort((a, b) => a[0] - b[0]), all: least <= 4 };
}

/** Draws the columns and gives back {at(x, y): the token that reads there or null, shown, the number of lines, and whether those are all}. */
export function drawLines(canvas, heads, { scale, colours, width, token = null }) {
  const { tokens, keys, rows, columns } = heads[0].map;
  const height = ROW * Math.max(rows, columns) + 12;
  const pen = prepare(canvas, width, height);
  pen.font = `13px ${FONT}`;
  const widest = [...tokens, ...keys].reduce((most, text) => Math.max(most, pen.measureText(printable(text)).width), 0);
  const name = Math.min(NAME * width, widest + 16);
  const bar = Math.min(BAR, (STRIP * width) / heads.length);
  const right = width - name - (token === null ? 0 : bar * heads.length) - 4; // where lines end
  pen.fillStyle = colours.page;
  pen.fillRect(0, 0, width, height);
  const y = (i) => 6 + (i + 0.5) * ROW;
  const { lines, all } = strongest(heads, scale, token);
  for (const [strength, i, j, h] of lines) {
    pen.strokeStyle = heads[h].colour;
    pen.globalAlpha = Math.min(1, strength);
    pen.lineWidth = token === null ? 1.5 : 1 + 2 * strength;
    pen.setLineDash(heads[h].map.weights[i * columns + j] < 0 ? [4, 3] : []);
    line(pen, [[name + 4, y(i)], [right, y(j)]]);
  }
  pen.setLineDash([]);
  if (token !== null) {
    for (const [strength, , j, h] of lines) { // beside a token that is read: a square for each head that reads it
      pen.globalAlpha = strength;
      pen.fillStyle = heads[h].colour;
      pen.fillRect(right + 3 + h * bar, y(j) - ROW / 2 + 1, bar - 1, ROW - 2);
    }
  }
  pen.globalAlpha = 1;
  pen.textBaseline = "middle";
  const label = (text, x, at, align, strong) => {
    pen.textAlign = align;
    pen.fillStyle = strong ? colours.mark : colours.ink;
    pen.fillText(fit(pen, printable(text), name - 8), x, at);
  };
  tokens.forEach((text, i) => label(text, name - 2, y(i), "right", i === token));
  keys.forEach((text, j) => label(text, width - name + 2, y(j), "left", false));
  const at = (x, height) => {
    const i = Math.floor((height - 6) / ROW);
    return i >= 0 && i < rows && x < width / 2 ? i : null;
  };
  return { at, shown: lines.length, all };
}

/** The panel as an element, with `item`, its drawing for a sheet. `token` is the one whose lines stay when nothing is pointed at;
 *  `ontoken(i)` is told which is chosen (null: none). */
export function linesPanel(heads, { scale, colours, width, token = null, ontoken, name }) {
  const { map } = heads[0];
  const canvas = el("canvas", { className: "lines", id: "lines", tabIndex: 0, role: "slider", "aria-orientation": "vertical",
    "aria-label": `${name}: token that reads`, "aria-valuemin": unchosen(map.rows) === null ? -1 : 0, "aria-valuemax": map.rows - 1, "aria-describedby": "lines-text" });
  const all = unchosen(map.rows) === null ? ", Escape all" : "";
  const hint = `Point at a token on the left to see its lines alone; a click keeps them. Keys: ↑ ↓ token${all}.`;
  const first = token === null ? unchosen(map.rows) : null; // of a long text, while none is chosen
  token ??= first;
  const said = el("output", { className: "cell-text", id: "lines-text" });
  const text = (i) => {
    const sentence = ({ map, name }) => {
      const row = [...map.weights.subarray(i * map.columns, (i + 1) * map.columns)];
      const best = row.reduce((top, value, j) => (Math.abs(value) > Math.abs(row[top]) ? j : top), 0);
      return `${name} “${printable(map.keys[best])}” ${short(row[best], 2)}`;
    };
    return `“${printable(map.tokens[i])}” (${i}) reads most: ${heads.map(sentence).join("; ")}`;
  };
  let [drawn, place] = [undefined, null];
  const draw = (now) => {
    if (now === drawn) return;
    drawn = now;
    place = drawLines(canvas, heads, { scale, colours, width, token: now });
    canvas.dataset.drawn = Number(canvas.dataset.drawn ?? 0) + 1;
    canvas.dataset.shown = place.shown;
    said.textContent = now === first ? hint : text(now);
    canvas.setAttribute("aria-valuenow", now ?? -1);
    canvas.setAttribute("aria-valuetext", now === null ? "all tokens" : text(now));
  };
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    return place.at(event.clientX - box.left, event.clientY - box.top);
  };
  canvas.onmousemove = (event) => draw(under(event) ?? token);
  canvas.onmouseleave = () => draw(token);
  canvas.onclick = (event) => {
    const at = under(event);
    ontoken(at === token ? null : at);
  };
  canvas.onkeydown = (event) => {
    const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (by) ontoken(Math.max(0, Math.min(map.rows - 1, (token ?? (by > 0 ? -1 : map.rows)) + by)));
    else if (event.key === "Escape") ontoken(null);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  draw(token);
  const few = place.all ? null : el("p", { className: "note", textContent: `Drawn are the ${place.shown} largest weights.` });
  const element = el("div", { className: "panel" }, said, el("div", { className: "stack" }, canvas), few);
  element.item = { title: name, draw: (other) => drawLines(other, heads, { scale, colours, width, token }) };
  return element;
}

/** A switch for each head in its colour, and all or none of them. `on` is the set of heads that are shown. */
export function headSwitches(heads, on, onchange) {
  const toggle = (h, alone) => {
    const next = alone ? new Set() : new Set(on);
    if (!next.delete(h)) next.add(h); // with shift there is nothing to delete
    onchange(next);
  };
  const all = heads.map((_, h) => h);
  return el("div", { className: "switches", role: "group", "aria-label": "heads" },
    ...heads.map(({ name, colour }, h) => {
      const button = el("button", { className: "switch", type: "button", id: `head-${h}`, "aria-pressed": String(on.has(h)), title: "click: on or off; with shift: this alone",
        onclick: (event) => toggle(h, event.shiftKey) }, el("span", { className: "dot" }), name);
      button.querySelector(".dot").style.background = colour;
      return button;
    }),
    el("button", { className: "small", type: "button", id: "heads-all", textContent: "all", onclick: () => onchange(new Set(all)) }),
    el("button", { className: "small", type: "button", id: "heads-none", textContent: "none", onclick: () => onchange(new Set()) }));
}
