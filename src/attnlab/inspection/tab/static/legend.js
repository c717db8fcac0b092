// The colour bar with what it measures, and the grey of what is never read.

import { el } from "./dom.js";
import { drawLegend } from "./map_view.js";

/** The legend of a scale as an element, for maps that measure the same. */
export function legend(scale, colours, { unit, causal }) {
  const canvas = el("canvas", { className: "colour-bar" });
  drawLegend(canvas, scale, colours);
  const swatch = el("span", { className: "swatch" });
  const words = el("div", { className: "legend-words" },
    el("div", { className: "legend-scale", textContent: `${unit}, ${scale.caption}` }),
    causal ? el("div", {}, swatch, "later tokens: never read") : null);
  return el("div", { className: "legend" }, canvas, words);
}
