// What is looked at instead of the stored weights: value-weighted maps, maps without the first column, rollouts, means
// and differences. Each is a map as map_view.js draws it, with `signed` and `bound`, the largest it can become, if any.

import { layerMap } from "./data.js";

const BOUNDED = ["probability", "sub_probability"];

/** The maps of all heads of a layer as the options want them: {heads: [map], layer, names, notes}. */
export async function shownMaps(wanted, options) {
  if (options.rollout) return rolledOut(wanted, options);
  const layer = await layerMap(wanted);
  const notes = [];
  if (layer.pooled > 1) {
    notes.push(`${layer.n_tokens} tokens: each cell is the weight furthest from 0 of ${layer.pooled} × ${layer.pooled}`);
  }
  if (options.weighted && !layer.value_norm) notes.push(`layer ${layer.layer} was written without value norms`);
  const heads = Array.from({ length: layer.heads }, (_, head) => {
    const norms = options.weighted ? layer.norms(head) : null;
    const weights = layer.weights(head);
    if (norms) for (let n = 0; n < weights.length; n++) weights[n] *= norms[n % layer.columns];
    return withoutSink(plain(layer, weights, Boolean(norms)), options);
  });
  return { heads, layer, names: heads.map((_, head) => headName(layer.layer, head)), notes };
}

/** The last value of a curve at or before a step. */
export function valueAt(curve, step) {
  let found = null;
  for (const [at, value] of curve ?? []) if (at <= step) found = value;
  return found;
}

export const headName = (layer, head) => `L${String(layer).padStart(2, "0")} H${String(head).padStart(2, "0")}`;

function plain(layer, weights, weighted) {
  return {
    weights, rows: layer.rows, columns: layer.columns, tokens: layer.tokens, keys: layer.keys ?? layer.tokens, first: 0,
    causal: layer.causal ?? true, cross: Boolean(layer.keys),
    signed: layer.kind === "signed", bound: BOUNDED.includes(layer.kind) && !weighted ? 1 : null,
    unit: weighted ? "weight × length of the value" : "weight",
  };
}

/** The map without its first column, which in many heads takes nearly everything; nothing is scaled up again. */
function withoutSink(map, options) {
  if (!options.sink || map.columns < 2) return map;
  const columns = map.columns - 1;
  const weights = new Float32Array(map.rows * columns);
  for (let i = 0; i < map.rows; i++) {
    weights.set(map.weights.subarray(i * map.columns + 1, (i + 1) * map.columns), i * columns);
  }
  return { ...map, weights, columns, keys: map.keys.slice(1), first: 1, bound: null };
}

/** Mean over maps of the same shape. */
export function mean(maps) {
  const weights = new Float32Array(maps[0].weights.length);
  for (const map of maps) for (let n = 0; n < weights.length; n++) weights[n] += map.weights[n] / maps.length;
  return { ...maps[0], weights };
}

/** One map minus another, or null if they are not of the same tokens. */
export function difference(a, b) {
  const alike = (one, other) => one.length === other.length && one.every((token, i) => token === other[i]);
  const same = a.rows === b.rows && alike(a.tokens, b.tokens) && alike(a.keys, b.keys);
  if (!same) return null;
  return { ...a, weights: a.weights.map((w, n) => w - b.weights[n]), signed: true, bound: null,
    unit: `difference of ${a.unit}` };
}

/** Attention rollout (arXiv 2005.00928): R_l = (A_l + I) R_(l-1) / 2, where A_l is the mean over heads of the shares
 *  |a_ij| / sum_j |a_ij|. A layer without a map passes on what it is given. */
async function rolledOut(wanted, options) {
  const below = wanted.layers.filter((layer) => layer <= wanted.layer);
  const layers = await Promise.all(below.map((layer) => layerMap({ ...wanted, layer, most: 512 })));
  const last = layers[layers.length - 1];
  if (last.keys) throw new Error("there is no rollout from one text to another");
  if (last.pooled > 1) throw new Error(`a rollout needs whole maps, but ${last.n_tokens} tokens are pooled to ${last.rows}`);
  const t = last.rows;
  let rolled = null;
  for (const layer of layers) {
    const step = meanShares(layer);
    for (let n = 0; n < step.length; n++) step[n] /= 2;
    for (let i = 0; i < t; i++) step[i * t + i] += 0.5;
    rolled = rolled ? product(step, rolled, t, last.causal ?? true) : step;
  }
  const missing = wanted.layer + 1 - below.length;
  const notes = ["rollout: how much of each token reaches this layer, the residual stream counting half"];
  if (missing) notes.push(`${missing} of the layers below have no map; they are taken to pass on what they are given`);
  const map = { ...plain(last, rolled, false), signed: false, bound: 1, unit: "rollout" };
  return { heads: [withoutSink(map, options)], layer: last, names: [`L${String(last.layer).padStart(2, "0")} rollout`], notes };
}

function meanShares(layer) {
  const t = layer.rows;
  const shares = new Float32Array(t * t);
  for (let head = 0; head < layer.heads; head++) {
    const weights = layer.weights(head);
    for (let i = 0; i < t; i++) {
      let total = 0;
      for (let j = 0; j < t; j++) total += Math.abs(weights[i * t + j]) || 0;
      if (total > 0) for (let j = 0; j < t; j++) shares[i * t + j] += (Math.abs(weights[i * t + j]) || 0) / total / layer.heads;
    }
  }
  return shares;
}

/** The product of two matrices, lower triangular ones if `causal`. */
function product(a, b, t, causal) {
  const c = new Float32Array(t * t);
  for (let i = 0; i < t; i++) {
    for (let k = 0; k < (causal ? i + 1 : t); k++) {
      const f = a[i * t + k];
      if (f) for (let j = 0; j < (causal ? k + 1 : t); j++) c[i * t + j] += f * b[k * t + j];
    }
  }
  return c;
}

/** The settings of a scale that suits all maps shown together. */
export function scaleSettings(maps, { mode, widest }) {
  const signed = maps.some((map) => map.signed);
  const bound = maps.every((map) => map.bound !== null) ? Math.max(...maps.map((map) => map.bound)) : null;
  if (bound !== null && !widest) return { signed, top: bound, mode };
  let largest = 0;
  for (const map of maps) for (const w of map.weights) if (Math.abs(w) > largest && Number.isFinite(w)) largest = Math.abs(w);
  return { signed, top: roundedUp(largest), mode };
}

/** The next number with one digit, or 1.5, 2.5: a scale that can be read. */
function roundedUp(x) {
  if (!(x > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(x));
  const up = [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].find((n) => n * unit >= x * (1 - 1e-9));
  return +(up * unit).toPrecision(3);
}
