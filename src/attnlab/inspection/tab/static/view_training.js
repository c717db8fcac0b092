// One head over training: its map at the slider's step beside the curves of its numbers, with a marker at that step.

import { effectLine, effectOf } from "./ablation.js";
import { json } from "./data.js";
import { headName, scaleSettings, shownMaps } from "./derive.js";
import { el, meaning, note, words } from "./dom.js";
import { legend } from "./legend.js";
import { makeScale, prepare, short } from "./map_view.js";
import { mapPanel } from "./panel.js";

const [WIDTH, HEIGHT, LEFT, BOTTOM] = [280, 122, 52, 20];

/** The view as an element. */
export async function trainingView({ state, colours, update }) {
  const { run, sentence, step, layer, layers } = state;
  const [shown, curves] = await Promise.all([
    shownMaps({ run, sentence, layer, step, layers }, state), json("curves", { run, layer }),
  ]);
  const head = Math.min(state.head, shown.heads.length - 1);
  const map = shown.heads[head];
  const scale = makeScale(scaleSettings([map], state));
  const wide = state.width > 900;
  const beside = state.width > 1080 ? 2 * WIDTH + 50 : WIDTH + 30; // pixels for one or two columns of charts
  const room = wide ? Math.min(700, state.width - beside, Math.max(480, state.height)) : state.width;
  const name = headName(layer, state.head).replace(" ", "");
  const effect = effectOf(curves, name, state.ablation);
  const left = el("div", { className: "left" }, el("h2", { textContent: `${shown.names[head]} at step ${step}` }),
    effect ? effectLine(effect) : null, legend(scale, colours, map), mapPanel(map, { scale, colours, room }), ...shown.notes.map((text) => note(text)));
  const charts = el("div", { className: "charts" });
  const once = Object.values(state.ablation); // measured when the run is over: nothing that changes with the step
  const metrics = Object.keys(curves).filter((metric) => curves[metric][name] && !once.includes(metric));
  for (const metric of metrics) charts.append(chart(metric, curves[metric], name, state, colours, update));
  const about = metrics.length
    ? note(`${name} in colour, the other heads of its layer pale${state.firstSentence ? "" : "; measured on the first sentence"}. Steps on a log scale; click to go there.`)
    : note("This run has logged no numbers of this head.");
  const right = el("div", { className: "side" }, about, charts);
  if (wide) right.style.width = `${beside - 30}px`;
  return el("section", { className: wide ? "view training-view wide" : "view training-view" }, left, right);
}

function chart(metric, curves, name, state, colours, update) {
  const canvas = el("canvas", { className: "chart" });
  const pen = prepare(canvas, WIDTH, HEIGHT);
  const points = Object.values(curves).flat();
  const last = Math.max(state.step, ...points.map(([step]) => step), 1);
  let [low, high] = [Math.min(...points.map((p) => p[1])), Math.max(...points.map((p) => p[1]))];
  if (low > 0 && low < high / 2) low = 0;
  if (high - low < 1e-9) [low, high] = [low - 0.5, high + 0.5];
  const x = (step) => LEFT + (Math.log1p(step) / Math.log1p(last)) * (WIDTH - LEFT - 8);
  const y = (value) => 6 + (1 - (value - low) / (high - low)) * (HEIGHT - BOTTOM - 10);
  pen.font = "11px system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
  pen.fillStyle = colours.soft;
  pen.strokeStyle = colours.line;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (const value of [low, high]) {
    pen.fillText(short(value, 3), LEFT - 6, y(value));
    line(pen, [[LEFT, y(value)], [WIDTH - 8, y(value)]]);
  }
  pen.textAlign = "center";
  const places = [0, ...[1, 10, 100, 1000, 10000, 100000, 1000000].filter((step) => step < last / 2), last];
  let free = -Infinity;
  for (const at of places) {
    const middle = Math.min(x(at), WIDTH - 14);
    if (middle - free < 26) continue;
    pen.fillText(String(at), middle, HEIGHT - 8);
    free = middle;
  }
  const others = Object.entries(curves).filter(([key]) => key !== name);
  for (const [key, curve] of others) {
    const reference = !/^L\d+H\d+$/.test(key);
    pen.setLineDash(reference ? [4, 3] : []);
    pen.strokeStyle = colours.soft;
    pen.globalAlpha = reference ? 1 : 0.45;
    line(pen, curve.map(([step, value]) => [x(step), y(value)]));
    if (reference && curve.length) {
      pen.textAlign = "left";
      pen.fillText(words(key), LEFT + 4, y(curve[0][1]) + (y(curve[0][1]) > 20 ? -7 : 9));
    }
  }
  pen.globalAlpha = 1;
  const birth = birthOf(metric, curves[name], state.births);
  if (birth) {
    pen.setLineDash([2, 3]);
    pen.strokeStyle = pen.fillStyle = colours.curve;
    line(pen, [[x(birth[0]), y(birth[1])], [x(birth[0]), HEIGHT - BOTTOM]]);
    pen.beginPath(); // a triangle that stands on the axis of the steps
    [[0, -9], [-5, 0], [5, 0]].forEach(([dx, dy]) => pen.lineTo(x(birth[0]) + dx, HEIGHT - BOTTOM + dy));
    pen.fill();
  }
  pen.setLineDash([]);
  pen.strokeStyle = pen.fillStyle = colours.curve;
  pen.lineWidth = 2;
  line(pen, curves[name].map(([step, value]) => [x(step), y(value)]));
  pen.strokeStyle = colours.mark;
  pen.lineWidth = 1.5;
  line(pen, [[x(state.step), 4], [x(state.step), HEIGHT - BOTTOM]]);
  const here = curves[name].filter(([step]) => step <= state.step).pop();
  if (here) {
    pen.beginPath();
    pen.arc(x(here[0]), y(here[1]), 3.5, 0, 7);
    pen.fillStyle = colours.mark;
    pen.fill();
  }
  canvas.onclick = (event) => {
    const at = event.clientX - canvas.getBoundingClientRect().left;
    const best = state.steps.reduce((a, b) => (Math.abs(x(b) - at) < Math.abs(x(a) - at) ? b : a));
    update({ step: best });
  };
  const now = here ? ` ${short(here[1])}` : "";
  const born = birth ? el("span", { className: "born", textContent: `  ▲ born at step ${birth[0]} (score ≥ ${state.births.least})`,
    title: "the first step with so high a score" }) : null;
  const figure = el("figure", {}, el("figcaption", { title: meaning(metric) }, words(metric), el("strong", { textContent: now }), born), canvas);
  figure.dataset.metric = metric;
  return figure;
}

/** The first point at which a score shows that the head does what it measures; none for other numbers. */
function birthOf(metric, curve, { least, metrics }) {
  return metrics.includes(metric) ? curve.find(([, value]) => value >= least) : undefined;
}

function line(pen, points) {
  pen.beginPath();
  points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
}
