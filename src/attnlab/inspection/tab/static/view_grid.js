// All layers and heads as thumbnails, in their order or sorted by a number per head.

import { change, effectOf, howToMeasure } from "./ablation.js";
import { json, layerNumbers } from "./data.js";
import { scaleSettings, shownMaps } from "./derive.js";
import { el, meaning, menu, note, words } from "./dom.js";
import { legend } from "./legend.js";
import { drawThumbnail, makeScale, short } from "./map_view.js";

const SIZES = [200, 150, 112, 96]; // pixels of a thumbnail: the largest with which all of them fit on the screen
const USUAL = 112; // where none fits

/** The last value of a curve at or before a step. */
export function valueAt(curve, step) {
  let found = null;
  for (const [at, value] of curve ?? []) if (at <= step) found = value;
  return found;
}

/** Layers between those that have maps. */
function gaps(layers) {
  const without = Array.from({ length: Math.max(...layers) }, (_, i) => i).filter((i) => !layers.includes(i));
  const which = without.length > 1 ? `Layers ${without.join(", ")} have` : `Layer ${without[0]} has`;
  return without.length ? [`${which} no map: no weighted sum of values that gives the output.`] : [];
}

/** The view as an element. */
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
      bar.append(menu("", [["", "largest first"], ["1", "smallest first"]], state.ascending ? "1" : "",
        (value) => update({ ascending: Boolean(value) })));
    }
  }
  element.append(bar);
  if (!cells.length) {
    element.append(...missing.map((text) => note(text, "warning")));
    return element;
  }
  const scale = makeScale(scaleSettings(cells.map((cell) => cell.map), state));
  bar.append(legend(scale, colours, cells[0].map));
  element.append(...missing.map((text) => note(text, "warning")), ...[...notes].map((text) => note(text)));
  const measured = cells.some((cell) => cell.effect);
  if (!state.rollout && !measured && state.runs[run].ablate) element.append(howToMeasure(state.runs[run].ablate));
  if (measured) {
    element.append(note("Below each map: how much the validation loss changes when the head is silenced; above 0 it was useful."));
  }
  const perRow = Math.max(...layers.map((layer) => cells.filter((cell) => cell.layer === layer).length));
  const high = measured ? 90 : 70; // pixels of a card or layer that are not the map
  const fits = (s) => {
    if (sorted) return (s + high - 24) * Math.ceil(cells.length / Math.floor((state.width + 10) / (s + 22))) <= state.height;
    const abreast = Math.floor((state.width + 24) / ((s + 22) * perRow + 14)); // layers beside each other
    return abreast > 0 && (s + high) * Math.ceil(layers.length / abreast) <= state.height;
  };
  const size = SIZES.find(fits) ?? USUAL;
  const draw = (cell) => thumbnail(cell, { scale, colours, size }, state, update);
  if (sorted) {
    element.append(el("div", { className: "thumbnails" }, ...cells.map(draw)));
  } else {
    const block = (layer) => {
      const mine = cells.filter((cell) => cell.layer === layer);
      const heading = el("h3", { textContent: `Layer ${layer}` });
      return mine.length ? el("div", {}, heading, el("div", { className: "thumbnails" }, ...mine.map(draw))) : null;
    };
    element.append(el("div", { className: "layers" }, ...layers.map(block)));
  }
  return element;
}

/** For each layer the metrics of its map; none where it could not be read. */
async function ofLayers({ run, sentence, step, layers }) {
  const found = await Promise.allSettled(layers.map((layer) => layerNumbers({ run, sentence, layer, step })));
  return Object.fromEntries(found.map((result, i) => [layers[i], result.value]));
}

function thumbnail(cell, look, state, update) {
  const canvas = el("canvas", { className: "thumbnail" });
  drawThumbnail(canvas, cell.map, look);
  const text = cell.said ? `${cell.name}   ${cell.said}` : cell.name;
  const shown = state.sort === state.ablation.mean ? "mean" : "zero";
  const below = cell.effect ? el("span", { className: "silenced", textContent: `silenced ${change(cell.effect[shown])}`,
    title: `the change in validation loss, ${shown === "zero" ? "its output set to zero" : "its output set to its average"}` }) : null;
  const button = el("button", {
    className: cell.layer === state.layer && cell.head === state.head ? "card chosen" : "card",
    title: `Open ${cell.name}`,
    onclick: () => update({ view: "head", layer: cell.layer, head: cell.head }),
  }, el("span", { textContent: text }), canvas, below);
  button.dataset.layer = cell.layer;
  button.dataset.head = cell.head;
  return button;
}
