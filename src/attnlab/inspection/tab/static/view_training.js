// One head over training: its map at the slider's step beside the curves of its numbers, of all ticked runs, with a marker at
// that step.

import { effectLine, effectOf } from "./ablation.js";
import { drawChart, WIDTH } from "./chart.js";
import { makeScale, ownColour, short } from "./colours.js";
import { json } from "./data.js";
import { headName, scaleSettings, shownMaps, valueAt } from "./derive.js";
import { el, meaning, note, words } from "./dom.js";
import { legend } from "./legend.js";
import { runName } from "./names.js";
import { mapPanel } from "./panel.js";

/** The view: {element, sheet}. */
export async function trainingView({ state, colours, update }) {
  const { run, sentence, step, layer, layers } = state;
  const runs = [run, ...[...state.compared].filter((other) => other !== run && other in state.runs)];
  const [shown, ...all] = await Promise.all([
    shownMaps({ run, sentence, layer, step, layers }, state), ...runs.map((one) => json("curves", { run: one, layer })),
  ]);
  const head = Math.min(state.head, shown.heads.length - 1);
  const map = shown.heads[head];
  const scale = makeScale(scaleSettings([map], state));
  const wide = state.width > 640;
  const beside = state.width > 1080 ? 2 * WIDTH + 50 : WIDTH + 30; // pixels for one or two columns of charts
  const room = wide ? Math.min(700, state.width - beside) : state.width;
  const high = Math.max(360, state.height - 170);
  const name = headName(layer, state.head).replace(" ", "");
  const effect = effectOf(all[0], name, state.ablation);
  const bar = legend(scale, colours, map);
  const panel = mapPanel(map, { scale, colours, room, high, name: shown.names[head] });
  const left = el("div", { className: "left" }, el("h2", { textContent: `${shown.names[head]} at step ${step}` }),
    effect ? effectLine(effect) : null, bar, panel, ...shown.notes.map((text) => note(text)));
  const once = Object.values(state.ablation); // measured when the run is over: nothing that changes with the step
  const own = runs.map((one, i) => ({ run: one, curves: all[i], colour: runs.length > 1 ? ownColour(i, runs.length, colours) : colours.curve }))
    .filter(({ run: one, curves }) => one === run || Object.values(curves).some((curve) => curve[name]));
  const metrics = [...new Set(all.flatMap(Object.keys))].filter((metric) => !once.includes(metric) && all.some((curves) => curves[metric]?.[name]));
  const charts = metrics.map((metric) => chart(metric, name, own, state, colours, update));
  const about = metrics.length
    ? note(`${name}${own.length > 1 ? " of each ticked run" : ""} in colour, the other heads of its layer pale${state.firstSentence ? "" : "; measured on the first sentence"}. Steps on a log scale; click to go there.`)
    : note("This run has logged no numbers of this head.");
  const key = own.length < 2 ? null : el("ul", { className: "key" }, ...own.map(({ run: one, colour }) => {
    const dot = el("span", { className: "dot" });
    dot.style.background = colour;
    return el("li", {}, dot, runName(one, state));
  }));
  const apart = own.length > 1 ? note("Head numbers of models that were trained apart mean nothing to each other: the same number need not be the same kind of head.") : null;
  const right = el("div", { className: "side" }, about, key, apart, el("div", { className: "charts" }, ...charts.map(({ figure }) => figure)));
  if (wide) right.style.width = `${beside - 30}px`;
  const rows = () => [["run", "head", "metric", "step", "value"], ...own.flatMap(({ run: one, curves }) =>
    metrics.flatMap((metric) => (curves[metric]?.[name] ?? []).map(([at, value]) => [one, name, metric, at, value])))];
  return {
    element: el("section", { className: wide ? "view training-view wide" : "view training-view" }, left, right),
    sheet: { items: [panel.item, ...charts.map(({ item }) => item), { ...bar.item, own: true }], rows },
  };
}

function chart(metric, name, runs, state, colours, update) {
  const canvas = el("canvas", { className: "chart", role: "img" });
  const first = runs[0].curves[metric] ?? {};
  const own = runs.filter(({ curves }) => curves[metric]?.[name])
    .map(({ run, curves, colour }) => ({ run, points: curves[metric][name], colour, style: "own" })).reverse(); // the shown run last, above
  const others = Object.entries(first).filter(([key]) => key !== name)
    .map(([key, points]) => ({ points, name: key, style: /^L\d+H\d+$/.test(key) ? "pale" : "reference" }));
  const curves = [...others, ...own];
  const point = emergenceOf(metric, first[name], state.emergence);
  const emergence = point && { at: point[0], value: point[1], colour: colours.curve };
  const last = curves.reduce((most, { points }) => points.reduce((top, [at]) => Math.max(top, at), most), Math.max(state.step, 1));
  const draw = (other, pointed = null) => drawChart(other, curves, { colours, step: state.step, last, emergence, pointed });
  const { x } = draw(canvas);
  const text = el("output", { className: "pointed" });
  const say = (at) => {
    const values = [...own].reverse().map(({ run, points, colour }) => [runName(run, state), valueAt(points, at), colour]);
    text.replaceChildren(`step ${at}`, ...values.map(([run, value, colour]) => {
      const dot = el("span", { className: "dot" });
      dot.style.background = colour;
      return el("div", {}, dot, `${value === null ? "–" : short(value)} ${runs.length > 1 ? run : ""}`);
    }));
  };
  say(state.step);
  canvas.setAttribute("aria-label", `${words(metric)} over training; ${text.textContent}`);
  const at = (event) => event.clientX - canvas.getBoundingClientRect().left;
  const nearest = (steps, pixel) => steps.reduce((a, b) => (Math.abs(x(b) - pixel) < Math.abs(x(a) - pixel) ? b : a));
  const steps = [...new Set(own.flatMap(({ points }) => points.map((p) => p[0])))];
  canvas.onmousemove = (event) => {
    const step = nearest(steps, at(event));
    draw(canvas, step);
    say(step);
  };
  canvas.onmouseleave = () => {
    draw(canvas);
    say(state.step);
  };
  canvas.onclick = (event) => update({ step: nearest(state.steps, at(event)) });
  const here = valueAt(first[name], state.step);
  const mark = emergence ? el("span", { className: "emergence", textContent: `  ▲ emerges at step ${emergence.at} (score ≥ ${state.emergence.least})`,
    title: "the first step with so high a score" }) : null;
  const figure = el("figure", {}, el("figcaption", { title: meaning(metric) }, words(metric),
    el("strong", { textContent: here === null ? "" : ` ${short(here)}` }), mark), canvas, text);
  figure.dataset.metric = metric;
  return { figure, item: { title: words(metric), draw } };
}

/** The first point at which a score shows that the head does what it measures; none for other numbers. */
function emergenceOf(metric, curve, { least, metrics }) {
  return metrics.includes(metric) ? curve?.find(([, value]) => value >= least) : undefined;
}
