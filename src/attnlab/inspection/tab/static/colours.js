// Colours: from a weight to its place on a scale and to a colour, and one colour for each of several heads or runs.
//
//   palette(dark)                    the colours of a page: {page, ink, soft, line, never, sequential, diverging}
//   makeScale({signed, top, mode})   from weight to colour; mode is "sqrt", "linear" or "log"
//   cssColour(weight, look)          the colour of a weight; a look is {scale, colours, ...}
//   ownColour(i, n, colours)         the colour of one of n things
//   short(x)                         a number in few characters

// The anchors of the PNG pictures; the path between them is straight in OKLab and walked at constant speed.
export const SEQUENTIAL = ["#fffcef", "#c5e5bd", "#58b8a4", "#1f7fa3", "#274888", "#1c0f45"];
export const DIVERGING = ["#08306b", "#2f78b7", "#a3cbe4", "#fbfaf6", "#f6bd96", "#cf553b", "#67001f"];
const SEQUENTIAL_DARK = ["#14161c", "#233a63", "#216f96", "#3fa79b", "#a5d9a8", "#fffbe0"];
const DIVERGING_DARK = ["#b5e0ff", "#4a9fe0", "#1d4468", "#14161c", "#6b2b20", "#e0694a", "#ffd0b5"];
export const N_COLOURS = 255; // odd, so that a diverging table has a middle

function oklab(colour) {
  const [r, g, b] = [1, 3, 5].map((i) => {
    const c = parseInt(colour.slice(i, i + 2), 16) / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s, 0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s];
}

function rgb([L, a, b]) {
  const l = (L + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (L - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (L - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const light = [4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s, -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s];
  return light.map((c) => {
    const x = Math.min(1, Math.max(0, c));
    return Math.round(255 * (x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055));
  });
}

/** N_COLOURS colours through the anchors as red, green, blue bytes, each step looking as large as every other. */
export function blend(anchors) {
  const labs = anchors.map(oklab);
  const between = (x) => {
    const i = Math.min(Math.floor(x), labs.length - 2);
    return labs[i].map((v, k) => v + (labs[i + 1][k] - v) * (x - i));
  };
  const fine = 64 * (labs.length - 1);
  const length = [0];
  for (let i = 1; i <= fine; i++) {
    const [p, q] = [between((i - 1) / 64), between(i / 64)];
    length.push(length[i - 1] + Math.hypot(...q.map((v, k) => v - p[k])));
  }
  const table = new Uint8Array(3 * N_COLOURS);
  for (let n = 0, i = 0; n < N_COLOURS; n++) {
    const want = (length[fine] * n) / (N_COLOURS - 1);
    while (i < fine - 1 && length[i + 1] < want) i++;
    const x = (i + (want - length[i]) / (length[i + 1] - length[i])) / 64;
    table.set(rgb(between(Math.min(x, labs.length - 1))), 3 * n);
  }
  return table;
}

const LIGHT = { page: "#ffffff", ink: "#1c2127", soft: "#59626d", line: "#c4c9cf", never: "#e9ebed", mark: "#d9480f",
  curve: "#1f7fa3", lightness: 0.6, sequential: blend(SEQUENTIAL), diverging: blend(DIVERGING) };
const DARK = { page: "#1e2025", ink: "#e8eaed", soft: "#a6adb8", line: "#4a4f59", never: "#2f323a", mark: "#ffb000",
  curve: "#58b8a4", lightness: 0.74, sequential: blend(SEQUENTIAL_DARK), diverging: blend(DIVERGING_DARK) };

/** The colours of a light or a dark page. */
export const palette = (dark) => (dark ? DARK : LIGHT);

/** From weights to places on the colour bar, 0 .. 1 or -1 .. 1; weights beyond `top` get the last colour. */
export function makeScale({ signed = false, top = 1, mode = "sqrt" }) {
  const knee = top / 1000; // where the log scale turns from straight to logarithmic
  const size = { linear: (x) => x / top, sqrt: (x) => Math.sqrt(x / top),
    log: (x) => Math.asinh(x / knee) / Math.asinh(top / knee) }[mode];
  const place = (w) => (w < 0 ? (signed ? -size(Math.min(-w, top)) : 0) : size(Math.min(w, top)));
  const parts = { linear: [0.25, 0.5, 0.75, 1], sqrt: [0.01, 0.1, 0.25, 0.5, 1], log: [0.001, 0.01, 0.1, 1] }[mode];
  const up = parts.map((part) => part * top);
  const ticks = [...(signed ? up.map((t) => -t).reverse() : []), 0, ...up];
  const how = { linear: "linear scale", sqrt: "square-root scale", log: `log scale (linear below ${short(knee)})` }[mode];
  const range = signed ? `−${short(top)} to ${short(top)}, 0 in the middle` : `0 to ${short(top)}`;
  return { signed, top, mode, place, ticks, caption: `${how}, ${range}` };
}

/** A number in few characters: 0.1234, 12.3, 1.2e-5. */
export function short(x, digits = 4) {
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "not a number" : x < 0 ? "−∞" : "∞";
  const text = Math.abs(x) >= 1e-4 || x === 0 ? String(+x.toPrecision(digits)) : x.toExponential(digits - 1);
  return text.replace(/^-/, "−");
}

/** Where the colour of a weight begins in its table. */
export function numberOf(weight, scale) {
  const place = scale.place(weight);
  return 3 * Math.round((scale.signed ? (place + 1) / 2 : place) * (N_COLOURS - 1));
}

/** The colour of a weight as CSS, and a colour in which text on it can be read. */
export function cssColour(weight, { scale, colours }) {
  if (Number.isNaN(weight)) return { fill: colours.mark, text: "#000000" };
  const n = numberOf(weight, scale);
  const [r, g, b] = (scale.signed ? colours.diverging : colours.sequential).subarray(n, n + 3);
  return { fill: `rgb(${r}, ${g}, ${b})`, text: 0.3 * r + 0.59 * g + 0.11 * b > 140 ? "#14161c" : "#ffffff" };
}


/** The colour of one of `n` things, as far from the others as n hues of one lightness can be. */
export function ownColour(i, n, colours) {
  const angle = 0.6 + (2 * Math.PI * i) / Math.max(n, 3);
  const [r, g, b] = rgb([colours.lightness, 0.14 * Math.cos(angle), 0.14 * Math.sin(angle)]);
  return `#${[r, g, b].map((c) => c.toString(16).padStart(2, "0")).join("")}`;
}
