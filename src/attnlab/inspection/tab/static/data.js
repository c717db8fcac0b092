// Fetches what the server has, once each, and turns stored numbers into arrays.

import { HALVES, halfBits } from "./half.js";

const MOST_BYTES = 2 ** 28; // of maps that are kept

const kept = new Map(); // from the address of a map to the promise of it; the oldest first
let keptBytes = 0;

async function ask(route, settings) {
  const reply = await fetch(`./${route}?${new URLSearchParams(settings)}`);
  if (reply.ok) return reply;
  const said = await reply.json().catch(() => ({}));
  throw new Error(said.error || `the server answered ${reply.status}`);
}

/** The JSON that the server gives for a route. */
export const json = async (route, settings = {}) => (await ask(route, settings)).json();

const numbers = new Map(); // from what was asked for to the promise of the metrics

/** The metrics of one layer's map at one step: {heads: {name: [a number per head]}, layer: {name: number}}. */
export function layerNumbers({ run, sentence, layer, step }) {
  const key = JSON.stringify([run, sentence, layer, step]);
  if (!numbers.has(key)) {
    const coming = json("numbers", { run, sentence, layer, step });
    numbers.set(key, coming);
    coming.catch(() => numbers.delete(key));
  }
  return numbers.get(key);
}

/** One layer's map of one run at one step, with at most `most` rows; see `unpack`. */
export function layerMap({ run, sentence, layer, step, most = 512 }) {
  const key = JSON.stringify([run, sentence, layer, step, most]);
  if (kept.has(key)) {
    const known = kept.get(key);
    kept.delete(key);
    kept.set(key, known);
    return known;
  }
  const coming = ask("map", { run, sentence, layer, step, most }).then((reply) => reply.arrayBuffer()).then(unpack);
  kept.set(key, coming);
  coming.then((map) => {
    keptBytes += map.bytes;
    for (const [old, promise] of kept) {
      if (keptBytes <= MOST_BYTES || old === key) break;
      kept.delete(old);
      promise.then((gone) => { keptBytes -= gone.bytes; });
    }
  }, () => kept.delete(key));
  return coming;
}

/** {heads, rows, columns, tokens, kind, pooled, metrics, ...; weights(head), norms(head)} */
async function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const bits = await halfBits(new Uint8Array(buffer, 4 + length));
  const [heads, rows, columns] = header.shape;
  const lower = header.layout === "lower";
  const perHead = lower ? (rows * (rows + 1)) / 2 : rows * columns;
  const weights = (head) => {
    const square = new Float32Array(rows * columns);
    for (let i = 0, n = head * perHead; i < rows; i++) {
      const end = lower ? i + 1 : columns;
      for (let j = 0; j < end; j++) square[i * columns + j] = HALVES[bits[n++]];
    }
    return square;
  };
  const norms = (head) => {
    if (!header.value_norm) return null;
    const start = heads * perHead + head * columns;
    return Float32Array.from(bits.subarray(start, start + columns), (n) => HALVES[n]);
  };
  return { ...header, heads, rows, columns, weights, norms, bytes: bits.byteLength };
}
