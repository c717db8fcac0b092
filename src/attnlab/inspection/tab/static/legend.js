// The colour bar with what it measures, and the grey of what is never read.

import { el } from "./dom.js";
import { drawLegend } from "./map_view.js";

/** The legend of a scale as an element, for maps that measure the same, with `item`, its drawing for a sheet. */
export function legend(scale, colours, { unit, causal }) {
  const text = `${unit}, ${scale.caption}`;
  const canvas = el("canvas", { className: "colour-bar", role: "img", "aria-label": `colour bar: ${text}` });
  drawLegend(canvas, scale, colours);
  const swatch = el("span", { className: "swatch" });
  const words = el("div", { className: "legend-words" }, el("div", { className: "legend-scale", textContent: text }),
    causal ? el("div", {}, swatch, "later tokens: never read") : null);
  const element = el("div", { className: "legend" }, canvas, words);
  element.item = { title: text, draw: (other) => drawLegend(other, scale, colours) };
  return element;
}
