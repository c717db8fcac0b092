// One head's map, large, and one row of it as bars and as coloured text.

import { effectLine, effectOf } from "./ablation.js";
import { makeScale, short } from "./colours.js";
import { json, layerNumbers } from "./data.js";
import { headName, scaleSettings, shownMaps, valueAt } from "./derive.js";
import { el, meaning, note, words } from "./dom.js";
import { legend } from "./legend.js";
import { mapPanel } from "./panel.js";
import { printable } from "./pen.js";
import { colourText, drawBars } from "./row_view.js";
import { mapRows } from "./sheet.js";

/** The view: {element, sheet}. */
export async function headView({ state, colours, update }) {
  const { run, sentence, step, layer, layers } = state;
  const curves = json("curves", { run, layer }).catch(() => ({}));
  const shown = await shownMaps({ run, sentence, layer, step, layers }, state);
  const head = Math.min(state.head, shown.heads.length - 1);
  const map = shown.heads[head];
  const scale = makeScale(scaleSettings([map], state));
  const norms = state.weighted ? null : shown.layer.norms(head);
  const extra = (row, column) => (norms && !state.rollout ? `, length of the value ${short(norms[column + map.first])}` : "");
  const row = Math.min(state.row ?? map.rows - 1, map.rows - 1);
  const wide = state.width > 640;
  const beside = state.width > 1060 ? 400 : 320;
  const room = wide ? Math.min(760, state.width - beside - 28) : state.width;
  const high = Math.max(360, state.height - 170); // below title and colour bar, above the text of a cell
  const panel = mapPanel(map, { scale, colours, room, high, name: shown.names[head], chosen: row, onrow: (chosen) => update({ row: chosen }), extra });
  const title = el("h2", { textContent: `${shown.names[head]} at step ${step}` });
  const logged = await curves;
  const name = headName(layer, head).replace(" ", "");
  const effect = state.rollout ? null : effectLine(effectOf(logged, name, state.ablation), state.runs[run].ablate);
  const bar = legend(scale, colours, map);
  const left = el("div", { className: "left" }, title, effect, bar, panel, ...shown.notes.map((text) => note(text)));
  const width = wide ? beside : Math.min(640, room);
  const rowOf = rowPanel(map, row, { scale, colours, width }, update);
  const side = el("div", { className: "side" }, rowOf);
  side.style.width = `${width}px`;
  if (!state.rollout) side.append(numbersTable(shown.layer, head, logged, state));
  const items = [panel.item, { ...rowOf.item }, { ...bar.item, own: true }];
  const rows = () => mapRows(["head"], [{ map, about: [shown.names[head]] }]);
  return { element: el("section", { className: wide ? "view head-view wide" : "view head-view" }, left, side), sheet: { items, rows } };
}

/** One row of a map, as text and as bars. */
function rowPanel(map, row, look, update) {
  const values = map.weights.subarray(row * map.columns, (row + 1) * map.columns);
  const about = { values, tokens: map.keys, query: map.cross ? null : row - map.first, causal: map.causal };
  const text = el("div", { className: "coloured-text", tabIndex: 0, role: "group", "aria-label": "the row as text" });
  colourText(text, about, look);
  if (!map.cross) [...text.children].forEach((span, j) => { span.onclick = () => update({ row: j + map.first }); });
  const title = `What “${printable(map.tokens[row])}” (${row}) reads`;
  const bars = el("canvas", { className: "bars", role: "img", "aria-label": `${title}, as bars` });
  const draw = (canvas) => drawBars(canvas, about, look);
  const place = draw(bars);
  const said = el("output", { className: "cell-text", textContent: `The longest bar is ${short(place.top)}.` });
  bars.onmousemove = (event) => {
    const j = place.at(event.clientX - bars.getBoundingClientRect().left);
    if (j !== null) said.textContent = `“${printable(map.keys[j])}” (${j + map.first}): ${short(values[j])}`;
  };
  const element = el("div", { className: "row-panel" }, el("h3", { textContent: title }),
    text, bars, said, note(map.cross ? "Click a row of the map to see it; bars are linear." : "Click a token to see its row; bars are linear."));
  element.item = { title, draw };
  return element;
}

/** The numbers of the map, which come a moment later than the map, and the ones that the run has logged. */
function numbersTable(layer, head, logged, { run, sentence, step, ablation }) {
  const table = el("table", { className: "numbers" });
  const name = headName(layer.layer, head).replace(" ", "");
  const cells = {};
  const rows = layer.metrics.map((metric) => [metric, "…"]);
  for (const [metric, curves] of Object.entries(logged)) {
    const value = valueAt(curves[name], step);
    const elsewhere = layer.metrics.includes(metric) || Object.values(ablation).includes(metric);
    if (!elsewhere && value !== null) rows.push([metric, short(value)]);
  }
  const row = (text, metric, cell) => el("tr", {}, el("th", { scope: "row", textContent: text, title: meaning(metric) }), cell);
  for (const [metric, text] of rows.sort()) {
    cells[metric] = el("td", { textContent: text });
    table.append(row(words(metric), metric, cells[metric]));
  }
  layerNumbers({ run, sentence, layer: layer.layer, step }).then((numbers) => {
    for (const metric of layer.metrics) cells[metric].textContent = short(numbers.heads[metric][head] ?? NaN);
    for (const [metric, value] of Object.entries(numbers.layer)) {
      table.append(row(`${words(metric)} of the layer's heads`, metric, el("td", { textContent: short(value ?? NaN) })));
    }
  }, (error) => table.after(note(error.message, "warning")));
  return el("div", {}, el("h3", { textContent: "This head in numbers" }), table,
    note(`kind of map: ${layer.kind.replace("_", "-")}`));
}
