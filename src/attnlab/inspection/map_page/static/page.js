// The page of one text: every head small, or one large with the row of a token. What draws is the tab's.

import { makeScale, ownColour, palette, short } from "./colours.js";
import { el, menu, tick } from "./dom.js";
import { HALVES, halfBits } from "./half.js";
import { legend } from "./legend.js";
import { headSwitches, linesPanel } from "./lines.js";
import { drawThumbnail } from "./map_view.js";
import { mapPanel } from "./panel.js";
import { printable } from "./pen.js";
import { colourText, drawBars } from "./row_view.js";
import { mapRows, save } from "./sheet.js";

const maps = JSON.parse(document.getElementById("maps").textContent);
const [keys, cross] = [maps.keys ?? maps.tokens, Boolean(maps.keys)]; // the tokens that are read, and whether they are others
const bounded = (kind) => kind === "probability" || kind === "sub_probability";
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const state = { view: "grid", at: 0, row: maps.row, token: null, off: new Set(), mode: "sqrt", first: 0, order: "model" };
let sheet = null; // of what is shown
const orders = { model: "as in the model", entropy: "by entropy", start: "by weight on the first token", ...(cross ? {} : { distance: "by distance" }) };

async function unpacked(bytes) {
  return Float32Array.from(await halfBits(bytes), (n) => HALVES[n]);
}
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

/** Maps of so many rows and columns, each as a whole square; behind their numbers may stand others. */
function squares(numbers, heads, [t, s], layout) {
  let n = 0;
  return heads.map(() => {
    const weights = new Float32Array(t * s);
    for (let i = 0; i < t; i++) {
      const end = layout === "lower" ? i + 1 : s;
      weights.set(numbers.subarray(n, (n += end)), i * s);
    }
    return weights;
  });
}

/** A layer's heads: a small map of each, and how it reads, in a few numbers. Of short texts the small map is the whole. */
async function headsOf(layer) {
  const { small } = layer;
  const maps = small ? squares(await unpacked(bytesOf(small.numbers)), layer.heads, small.shape, small.layout) : [];
  const heads = layer.heads.map((head, h) => ({ layer: layer.layer, head, kind: layer.kind, of: layer,
    ...Object.fromEntries(Object.entries(layer.measures).map(([name, all]) => [name, all[h]])),
    ...(small && { small: maps[h], shape: small.shape }) }));
  layer.all = heads;
  if (!small) await whole(layer);
  return heads;
}

/** The weights and the lengths of the values of a layer's heads, as they are: unpacked, or asked for, when first needed. */
function whole(layer) {
  layer.whole ??= (async () => {
    const numbers = await unpacked(layer.numbers ? bytesOf(layer.numbers) : await asked(layer));
    const [t, s] = [maps.tokens.length, keys.length], first = numbers.length - (layer.norms ? layer.heads.length * s : 0);
    const layout = first < layer.heads.length * t * s ? "lower" : "full";
    squares(numbers, layer.heads, [t, s], layout).forEach((weights, h) => { layer.all[h].weights = weights; });
    layer.all.forEach((head, h) => { head.norms = layer.norms ? numbers.subarray(first + h * s, first + (h + 1) * s) : null; });
  })();
  layer.whole.catch(() => { layer.whole = null; }); // it may be asked again
  return layer.whole;
}
async function asked(layer) {
  const reply = await fetch(`${maps.later}&layer=${layer.layer}`);
  if (!reply.ok) throw new Error(`the server answered ${reply.status}`);
  return new Uint8Array(await reply.arrayBuffer());
}

const all = (await Promise.all(maps.layers.map(headsOf))).flat();
const nameOf = ({ layer, head }) => `layer ${layer}, head ${head}`;

/** The small map of a head, for the grid: of a long text each cell stands for the largest weight of several. */
function smallOf(head) {
  if (!head.small) return shown(head);
  const [rows, s] = head.shape, columns = s - Math.min(state.first, s - 1); // the first token stands alone
  const weights = new Float32Array(rows * columns);
  for (let i = 0; i < rows; i++) weights.set(head.small.subarray((i + 1) * s - columns, (i + 1) * s), i * columns);
  return { weights, kind: head.kind, rows, columns, first: s - columns, causal: maps.causal };
}

function shown({ weights, kind }) {
  const [t, s, first] = [maps.tokens.length, keys.length, Math.min(state.first, keys.length - 1)];
  const columns = s - first;
  const cut = new Float32Array(t * columns);
  for (let i = 0; i < t; i++) cut.set(weights.subarray(i * s + first, (i + 1) * s), i * columns);
  return { weights: cut, kind, rows: t, columns, tokens: maps.tokens, keys: keys.slice(first), first, causal: maps.causal, cross, unit: "weight" };
}

function look(map) {
  const largest = map.weights.reduce((most, w) => Math.max(most, Math.abs(w) || 0), 0) || 1;
  const unit = 10 ** (Math.floor(Math.log10(largest)) - 1);
  const top = bounded(map.kind) && !map.first ? 1 : Number((Math.ceil(largest / unit - 1e-6) * unit).toPrecision(2));
  return { scale: makeScale({ signed: map.kind === "signed", top, mode: state.mode }), colours: palette(dark.matches) };
}

function gridView(above) {
  const heads = [...all.keys()];
  if (state.order !== "model") heads.sort((a, b) => all[a][state.order] - all[b][state.order]);
  const [most, layers] = [Math.max(...maps.layers.map((layer) => layer.heads.length)), maps.layers.length];
  const level = state.order === "model" && maps.layers.every((layer) => layer.heads.length === most); // a row per layer
  const width = document.getElementById("page").clientWidth - 48; // inside its edges
  const usual = Math.max(96, Math.min(176, Math.floor(1300 / Math.sqrt(8 * all.length))));
  const small = level && (most > 8 || layers > 8); // then names stand at the edges alone, and the whole fits into the window
  const size = small ? Math.floor(Math.max(20, Math.min(usual, (width - 34) / most - 7, (window.innerHeight - above - 76) / layers - 7))) : usual;
  const grid = el("div", { className: small ? "grid small-heads" : "grid" });
  if (small) {
    grid.style.gridTemplateColumns = `repeat(${most + 1}, max-content)`;
    grid.append(el("span"), ...maps.layers[0].heads.map((head) => el("span", { textContent: `H${String(head).padStart(2, "0")}` })));
  } else if (level && most * (size + 34) < width) grid.style.cssText = `display: grid; grid-template-columns: repeat(${most}, max-content)`;
  const rows = [["layer", "head", "entropy", "weight_on_first", ...(cross ? [] : ["distance"])]];
  sheet = { items: [], rows: () => rows };
  for (const i of heads) {
    const [canvas, map] = [el("canvas", { role: "img", "aria-label": nameOf(all[i]) }), smallOf(all[i])];
    drawThumbnail(canvas, map, { ...look(map), size });
    const { entropy, start, distance } = all[i];
    const numbers = `entropy ${short(entropy, 2)} · first ${short(start, 2)}${cross ? "" : ` · distance ${short(distance, 2)}`}`;
    sheet.items.push({ title: nameOf(all[i]), draw: (other) => drawThumbnail(other, map, { ...look(map), size: 112 }), own: level && i % most === 0 });
    rows.push([all[i].layer, all[i].head, entropy, start, ...(cross ? [] : [distance])]);
    const caption = small ? [] : [el("b", { textContent: nameOf(all[i]) }), el("div", { className: "soft small", textContent: `entropy ${short(entropy, 2)}` })];
    if (small && i % most === 0) grid.append(el("span", { textContent: `L${String(all[i].layer).padStart(2, "0")}` }));
    grid.append(el("button", { className: "thumb", type: "button", title: `${nameOf(all[i])}: ${numbers}`, onclick: () => set({ view: "head", at: i }) }, canvas, ...caption));
  }
  const signed = all.some((head) => head.kind === "signed");
  const how = signed ? "Blue is below 0, red above; the scale of each map is its own." : "Dark or bright is a large weight.";
  return el("section", {}, el("p", { className: "soft", textContent: `Every head: a row per token that reads, a column per token that is read. ${how} Click one.` }), grid);
}

function headView() {
  const head = all[state.at];
  const map = shown(head);
  const [{ scale, colours }, { row }] = [look(map), state];
  const wide = window.innerWidth > 1100;
  const room = Math.min(820, document.getElementById("page").clientWidth - (wide ? 480 : 48));
  const high = Math.max(360, window.innerHeight - 280); // so that a map is seen whole, below its colour bar
  const extra = (row, column) => (head.norms ? `, length of the value ${short(head.norms[column + map.first])}` : "");
  const bar = legend(scale, colours, map);
  const panel = mapPanel(map, { scale, colours, room, high, name: nameOf(head), chosen: row, onrow: (chosen) => set({ row: chosen }), extra });
  const values = map.weights.subarray(row * map.columns, (row + 1) * map.columns);
  const about = { values, tokens: map.keys, query: cross ? null : row - map.first, causal: map.causal };
  const title = `What “${printable(maps.tokens[row])}” (${row}) reads`;
  const bars = el("canvas", { role: "img", "aria-label": `${title}, as bars` });
  const text = el("div", { className: "text" });
  const drawRow = (canvas) => drawBars(canvas, about, { scale, colours, width: Math.min(600, wide ? 430 : room) });
  drawRow(bars);
  colourText(text, about, { scale, colours });
  if (!cross) [...text.children].forEach((span, j) => { span.onclick = () => set({ row: j + map.first }); });
  const kind = `kind of map: ${head.kind.replace("_", "-")}; entropy ${short(head.entropy, 3)}, weight on the first token `
    + `${short(head.start, 3)}${cross ? "" : `, mean distance ${short(head.distance, 3)} tokens`}`;
  sheet = { items: [panel.item, { title, draw: drawRow }, { ...bar.item, own: true }],
    rows: () => mapRows(["head"], [{ map, about: [nameOf(head)] }]) };
  return el("section", { className: "head" }, el("div", {}, el("h2", { textContent: nameOf(head) }), bar, panel),
    el("div", { className: "side" }, el("h3", { textContent: title }), text, bars,
      el("p", { className: "soft small", textContent: `Click a ${cross ? "row of the map to see it" : "token, here or in the map, to see its row"}; bars are linear.` }),
      el("p", { className: "soft small", textContent: kind })));
}

function linesView() {
  const { layer } = all[state.at];
  const { colours } = look(shown(all[state.at]));
  const mine = all.filter((head) => head.layer === layer);
  const heads = mine.map((head, h) => ({ map: shown(head), name: `head ${head.head}`, colour: ownColour(h, mine.length, colours) }));
  const on = new Set(heads.map((_, h) => h).filter((h) => !state.off.has(h)));
  const few = heads.filter((_, h) => on.has(h));
  const switches = headSwitches(heads, on, (next) => set({ off: new Set(heads.map((_, h) => h).filter((h) => !next.has(h))) }));
  const section = el("section", {}, el("h2", { textContent: `layer ${layer}` }), switches);
  sheet = null;
  if (!few.length) return section;
  const tops = few.map(({ map }) => look({ ...map, kind: mine[0].kind }).scale.top);
  const scale = makeScale({ top: Math.max(...tops), mode: state.mode });
  const width = Math.min(760, document.getElementById("page").clientWidth - 48);
  const panel = linesPanel(few, { scale, colours, width, token: state.token, name: `layer ${layer}`, ontoken: (token) => set({ token }) });
  sheet = { items: [panel.item], rows: () => mapRows(["head"], few.map(({ map, name }) => ({ map, about: [name] }))) };
  section.append(el("p", { className: "soft small", textContent: `The stronger a line, the larger the weight; ${scale.caption}.` }), panel);
  return section;
}

function choice(label, options, key) {
  return menu(label, options, state[key], (value) => set({ [key]: typeof state[key] === "number" ? Number(value) : value }));
}

function controls() {
  const button = (view, text) => el("button", { type: "button", textContent: text, className: state.view === view ? "on" : "", "aria-pressed": String(state.view === view), onclick: () => set({ view }) });
  const keep = (kind) => el("button", { type: "button", className: "take", textContent: kind.toUpperCase(), "aria-label": `save what is shown as ${kind}`,
    onclick: () => save(kind, { ...sheet, title: `${maps.run}, step ${maps.step}`, name: `attention_${state.view}_${maps.run}` }, palette(dark.matches)) });
  return el("div", { className: "bar" }, button("grid", "all heads"), button("head", "one head"), button("lines", "lines"),
    choice("head", all.map((head, i) => [i, nameOf(head)]), "at"),
    choice("colours", [["sqrt", "square root"], ["linear", "linear"], ["log", "logarithmic"]], "mode"),
    ...(state.view === "grid" ? [choice("order", Object.entries(orders), "order")] : []),
    tick("without the first token", state.first === 1, (on) => set({ first: on ? 1 : 0 })), keep("png"), keep("svg"), keep("csv"),
    el("span", { className: "soft small", textContent: "keys: ← → head, ↑ ↓ layer, Escape all" }));
}

// What is shown, in the address: a reload and a sent link show the same.
const start = { ...state, off: "" };
const count = (most) => (text) => (/^\d+$/.test(text) && Number(text) < most ? Number(text) : undefined);
const among = (...allowed) => (text) => (allowed.includes(text) ? text : undefined);
const KEYS = { view: among("grid", "head", "lines"), at: count(all.length), row: count(maps.tokens.length), token: count(maps.tokens.length),
  mode: among("sqrt", "linear", "log"), first: count(2), order: among(...Object.keys(orders)),
  off: (text) => new Set(text.split(",").filter(Boolean).map(Number).filter(Number.isInteger)) };

function toAddress() {
  const where = new URLSearchParams();
  for (const key of Object.keys(KEYS)) {
    const value = key === "off" ? [...state.off].join(",") : state[key];
    if (value !== start[key]) where.set(key, value);
  }
  history.replaceState(null, "", where.size ? `#${where}` : location.href.split("#")[0]);
}

function fromAddress() {
  const where = new URLSearchParams(location.hash.slice(1));
  for (const [key, read] of Object.entries(KEYS)) state[key] = read(where.get(key) ?? "") ?? (key === "off" ? new Set() : start[key]);
}

function set(change) {
  Object.assign(state, change);
  if ("at" in change && state.view === "grid") state.view = "head";
  draw();
}

let turn = 0;

async function draw() {
  const mine = ++turn, page = document.getElementById("page");
  let problem = "";
  if (state.view !== "grid") await whole(all[state.at].of).catch((error) => { problem = `These numbers cannot be read: ${error.message}`; });
  if (mine !== turn) return; // something else was chosen meanwhile
  const title = el(maps.heading, { textContent: `Attention of ${maps.run}` });
  const about = `step ${maps.step}; ${maps.tokens.length} tokens${cross ? ` that read ${keys.length} others` : ""}, ${all.length} heads`;
  const focused = document.activeElement?.id;
  const scrolled = window.scrollY;
  page.replaceChildren(title, el("p", { className: "soft", textContent: about }), controls());
  const view = problem ? () => el("p", { role: "alert", textContent: problem }) : { grid: gridView, head: headView, lines: linesView }[state.view];
  page.append(view(page.offsetHeight)); // below what stands there
  window.scrollTo({ top: scrolled, behavior: "instant" });
  for (const button of page.querySelectorAll(".take")) button.disabled = !sheet;
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  toAddress();
  document.body.dataset.drawn = String(Number(document.body.dataset.drawn ?? 0) + 1);
}

document.addEventListener("keydown", (event) => {
  if (event.target.matches("select, input, textarea")) return;
  if (maps.heading !== "h1" && !document.getElementById("page").contains(event.target)) return; // part of a page that scrolls
  const beside = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const layers = [...new Set(all.map((head) => head.layer))];
  const up = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (event.key === "Escape") set({ view: "grid" });
  else if (beside) set({ at: Math.max(0, Math.min(all.length - 1, state.at + beside)) });
  else if (up) {
    const layer = layers[Math.max(0, Math.min(layers.length - 1, layers.indexOf(all[state.at].layer) + up))];
    const same = all.findIndex((head) => head.layer === layer && head.head === all[state.at].head);
    set({ at: same >= 0 ? same : all.findIndex((head) => head.layer === layer) });
  } else return;
  event.preventDefault();
});
dark.addEventListener("change", draw);
addEventListener("hashchange", () => { fromAddress(); draw(); });
fromAddress();
draw();
