// All layers and heads as thumbnails, in their order or sorted by a number per head.

import { change, effectOf, howToMeasure } from "./ablation.js";
import { makeScale, short } from "./colours.js";
import { json, layerNumbers } from "./data.js";
import { scaleSettings, shownMaps, valueAt } from "./derive.js";
import { el, heightOf, meaning, menu, note, words } from "./dom.js";
import { legend } from "./legend.js";
import { drawThumbnail } from "./map_view.js";

const SORTED = [200, 150, 112, 96]; // pixels of a sorted thumbnail: the largest with which all of them fit on the screen
const HEADINGS = 24; // pixels of the names of heads, above the table
const [LEAST, USUAL, LARGEST] = [20, 112, 200]; // pixels of one in the table; `USUAL` where none would fit

/** Layers between those that have maps. */
function gaps(layers) {
  const without = Array.from({ length: Math.max(...layers) }, (_, i) => i).filter((i) => !layers.includes(i));
  const which = without.length > 1 ? `Layers ${without.join(", ")} have` : `Layer ${without[0]} has`;
  return without.length ? [`${which} no map: no weighted sum of values that gives the output.`] : [];
}

/** The view: {element, sheet}. */
export async function gridView({ state, colours, update }) {
  const { run, sentence, step, layers } = state;
  const most = state.rollout ? 512 : 128;
  const asked = layers.map((layer) => shownMaps({ run, sentence, layer, step, layers, most }, state));
  const curves = json("curves", { run }).catch(() => ({}));
  const found = await Promise.allSettled(asked);
  const cells = [];
  const notes = new Set();
  const missing = gaps(layers);
  found.forEach((result, i) => {
    if (result.status === "rejected") {
      missing.push(`Layer ${layers[i]}: ${result.reason.message}`);
      return;
    }
    const { heads, layer, names, notes: said } = result.value;
    said.forEach((text) => notes.add(text));
    heads.forEach((map, head) => cells.push({ map, layer: layers[i], head, name: names[head], metrics: layer.metrics }));
  });
  const ofMap = new Set(cells.flatMap((cell) => cell.metrics));
  const logged = await curves;
  const known = state.rollout ? [] : [...new Set([...ofMap, ...Object.keys(logged)])].sort();
  for (const cell of cells) {
    cell.key = cell.name.replace(" ", "");
    cell.effect = state.rollout ? null : effectOf(logged, cell.key, state.ablation);
  }
  const sorted = known.includes(state.sort);
  if (sorted) {
    const numbers = ofMap.has(state.sort) ? await ofLayers(state) : {};
    const silenced = { [state.ablation.zero]: "zero", [state.ablation.mean]: "mean" }[state.sort];
    for (const cell of cells) {
      cell.number = silenced ? cell.effect?.[silenced]
        : numbers[cell.layer]?.heads[state.sort]?.[cell.head] ?? valueAt(logged[state.sort]?.[cell.key], step);
      cell.said = cell.number === null || cell.number === undefined || silenced ? "" : short(cell.number, 3);
    }
    const value = (cell) => cell.number ?? (state.ascending ? Infinity : -Infinity);
    cells.sort((a, b) => (value(b) - value(a) || 0) * (state.ascending ? -1 : 1));
  }
  const element = el("section", { className: "view grid-view" });
  const orders = [["order", "layer and head"], ...known.map((metric) => [metric, words(metric)])];
  const bar = el("div", { className: "bar" });
  if (!state.rollout) {
    bar.append(menu("Sort by", orders, sorted ? state.sort : "order", (sort) => update({ sort }), meaning(state.sort)));
    if (sorted) {
      bar.append(menu("Direction", [["", "largest first"], ["1", "smallest first"]], state.ascending ? "1" : "",
        (value) => update({ ascending: Boolean(value) })));
    }
  }
  element.append(bar);
  if (!cells.length) {
    element.append(...missing.map((text) => note(text, "warning")));
    return { element };
  }
  const scale = makeScale(scaleSettings(cells.map((cell) => cell.map), state));
  const colourBar = legend(scale, colours, cells[0].map);
  bar.append(colourBar);
  element.append(...missing.map((text) => note(text, "warning")), ...[...notes].map((text) => note(text)));
  const measured = cells.some((cell) => cell.effect);
  if (!state.rollout && !measured && state.runs[run].ablate) element.append(howToMeasure(state.runs[run].ablate));
  if (measured) {
    element.append(note("Below each map: how much the validation loss changes when the head is silenced; above 0 it was useful."));
  }
  const draw = (size, small) => (cell) => thumbnail(cell, { scale, colours, size, small, measured }, state, update);
  if (sorted || state.rollout) {
    const high = measured ? 66 : 46; // pixels of a card that are not the map
    const fits = (s) => (s + high) * Math.ceil(cells.length / Math.floor((state.width + 10) / (s + 22))) <= state.height - 60;
    const cards = cells.map(draw(SORTED.find(fits) ?? USUAL, false));
    element.append(el("div", { className: "thumbnails" }, ...cards));
  } else {
    element.append(...headTable(cells, state, draw, { measured, above: heightOf(element, state.width) }));
  }
  if (!element.querySelector('.card[tabindex="0"]')) element.querySelector(".card").tabIndex = 0;
  element.onkeydown = moveAmong;
  const items = cells.map((cell) => ({ title: cell.name, own: !sorted && cell.head === 0,
    draw: (canvas) => drawThumbnail(canvas, cell.map, { scale, colours, size: 112 }) }));
  return { element, sheet: { items: [...items, { ...colourBar.item, own: true }], rows: () => headRows(cells, known, logged, state) } };
}

/** Layers x heads as one table that fits into the window, as far as its maps stay large enough to be seen. */
function headTable(cells, state, draw, { measured, above }) {
  const layers = state.layers.filter((layer) => cells.some((cell) => cell.layer === layer));
  const heads = Math.max(...cells.map((cell) => cell.head)) + 1;
  const across = (state.width - 46) / heads - 6; // beside the names of layers and the gaps
  const down = (caption) => (state.height - above - HEADINGS) / layers.length - 6 - caption;
  const caption = measured ? 41 : 23;
  const room = Math.min(LARGEST, across - 12, down(caption + 12));
  const small = room < 72; // then the names stand at the edges alone
  const size = Math.floor(small ? Math.max(LEAST, Math.min(USUAL, across, down(0))) : room);
  const names = Array.from({ length: heads }, (_, head) => el("th", { scope: "col", textContent: `H${String(head).padStart(2, "0")}` }));
  const rows = layers.map((layer) => {
    const mine = Array.from({ length: heads }, (_, head) => cells.find((cell) => cell.layer === layer && cell.head === head));
    return el("tr", {}, el("th", { scope: "row", textContent: `L${String(layer).padStart(2, "0")}` }),
      ...mine.map((cell) => el("td", {}, cell ? draw(size, small)(cell) : null)));
  });
  const table = el("table", { className: small ? "heads small-heads" : "heads" },
    el("caption", { className: "hidden", textContent: "attention maps, a row for each layer, a column for each head" }),
    el("thead", {}, el("tr", {}, el("td"), ...names)), el("tbody", {}, ...rows));
  return [el("div", { className: "table-room" }, table)];
}

/** With the focus on a map the arrows go to the maps beside it. */
function moveAmong(event) {
  const cards = [...event.currentTarget.querySelectorAll(".card")];
  const at = cards.indexOf(document.activeElement);
  if (at < 0 || event.shiftKey) return;
  const place = cards.map((card) => card.getBoundingClientRect());
  const { left, top } = place[at];
  const ahead = { ArrowLeft: (p) => left - p.left, ArrowRight: (p) => p.left - left, ArrowUp: (p) => top - p.top, ArrowDown: (p) => p.top - top }[event.key];
  if (!ahead) return;
  const aside = event.key === "ArrowLeft" || event.key === "ArrowRight" ? (p) => Math.abs(p.top - top) : (p) => Math.abs(p.left - left);
  const cost = (p) => (ahead(p) > 4 ? ahead(p) + 10 * aside(p) : Infinity);
  const best = place.reduce((a, p, i) => (cost(p) < cost(place[a]) ? i : a), at);
  cards[at].tabIndex = -1;
  cards[best].tabIndex = 0;
  cards[best].focus();
  event.preventDefault();
  event.stopPropagation();
}

/** The numbers of all heads as rows, as far as the run has logged them or they have been asked for. */
async function headRows(cells, known, logged, state) {
  const numbers = await ofLayers(state);
  const value = (cell, metric) => numbers[cell.layer]?.heads[metric]?.[cell.head] ?? valueAt(logged[metric]?.[cell.key], state.step) ?? "";
  return [["layer", "head", ...known], ...cells.map((cell) => [cell.layer, cell.head, ...known.map((metric) => value(cell, metric))])];
}

/** For each layer the metrics of its map; none where it could not be read. */
async function ofLayers({ run, sentence, step, layers }) {
  const found = await Promise.allSettled(layers.map((layer) => layerNumbers({ run, sentence, layer, step })));
  return Object.fromEntries(found.map((result, i) => [layers[i], result.value]));
}

function thumbnail(cell, look, state, update) {
  const canvas = el("canvas", { className: "thumbnail" });
  drawThumbnail(canvas, cell.map, look);
  const number = cell.said ? `   ${cell.said}` : "";
  const isMean = state.sort === state.ablation.mean;
  const silenced = cell.effect ? `silenced ${change(cell.effect[isMean ? "mean" : "zero"])}` : "";
  const below = silenced && !look.small ? el("span", { className: "silenced", textContent: silenced,
    title: `the change in validation loss, its output set to ${isMean ? "its average" : "zero"}` }) : null;
  const chosen = cell.layer === state.layer && cell.head === state.head;
  const button = el("button", {
    className: chosen ? "card chosen" : "card", title: `Open ${cell.name}${number}${look.small && silenced ? `, ${silenced}` : ""}`,
    "aria-label": `${cell.name}${number} ${silenced}`.trim(), tabIndex: chosen ? 0 : -1, id: `card-${cell.layer}-${cell.head}`,
    onclick: () => update({ view: "head", layer: cell.layer, head: cell.head }),
  }, look.small ? null : el("span", { textContent: cell.name + number }), canvas, below);
  button.dataset.layer = cell.layer;
  button.dataset.head = cell.head;
  return button;
}
