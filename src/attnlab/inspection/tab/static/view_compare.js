// The same head, or the mean over heads, of two or more runs: side by side, or what each differs from the first.

import { effectLine, effectOf } from "./ablation.js";
import { json } from "./data.js";
import { difference, headName, mean, scaleSettings, shownMaps } from "./derive.js";
import { el, menu, note, tick } from "./dom.js";
import { legend } from "./legend.js";
import { makeScale } from "./map_view.js";
import { mapPanel } from "./panel.js";

/** Of a run's steps the one that is nearest to a step. */
const nearest = (steps, step) => steps.reduce((best, s) => (Math.abs(s - step) < Math.abs(best - step) ? s : best));

async function mapOf(run, state) {
  const { sentence, layer } = state;
  const about = state.runs[run];
  const layers = about?.sentences[sentence];
  if (!layers) throw new Error(`it has no maps of the sentence “${sentence}”`);
  if (!layers.includes(layer)) throw new Error(`it has no map of layer ${layer}`);
  const { steps } = await json("steps", { run, sentence, layer: layers[0] });
  const step = nearest(steps, state.step);
  const shown = await shownMaps({ run, sentence, layer, step, layers }, state);
  if (state.mean) return { run, step, map: mean(shown.heads), notes: shown.notes };
  if (state.head >= shown.heads.length) throw new Error(`layer ${layer} has ${shown.heads.length} heads`);
  return { run, step, map: shown.heads[state.head], notes: shown.notes, ...(await useOf(run, state)) };
}

/** What the run loses without the head, as a line; nothing where no single head is shown. */
async function useOf(run, { rollout, layer, head, ablation, runs }) {
  if (rollout) return {};
  const curves = await json("curves", { run, layer }).catch(() => ({}));
  const name = headName(layer, head).replace(" ", "");
  return { use: effectLine(effectOf(curves, name, ablation), runs[run].ablate) };
}

/** The view as an element. */
export async function compareView({ state, colours, update }) {
  const runs = [...state.compared].filter((run) => run in state.runs);
  const bar = el("div", { className: "bar" },
    menu("Show", [["side", "side by side"], ["difference", "difference from the first"]], state.how, (how) => update({ how })),
    tick("mean over heads", state.mean, (value) => update({ mean: value })));
  const element = el("section", { className: "view compare-view" }, bar);
  if (runs.length < 2) element.append(note("Tick two or more runs on the left to compare them.", "warning"));
  const found = await Promise.allSettled(runs.map((run) => mapOf(run, state)));
  const good = found.filter((result) => result.status === "fulfilled").map((result) => result.value);
  const failed = found.map((result, i) => [runs[i], result]).filter(([, result]) => result.status === "rejected");
  const subject = state.rollout ? `layer ${state.layer}, rollout`
    : state.mean ? `layer ${state.layer}, mean over heads` : `layer ${state.layer}, head ${state.head}`;
  element.append(el("h2", { textContent: subject }));
  element.append(...failed.map(([run, result]) => note(`${run}: ${result.reason.message}`, "warning")));
  const shown = [];
  if (state.how === "difference" && good.length > 1) {
    for (const other of good.slice(1)) {
      const map = difference(other.map, good[0].map);
      if (map) shown.push({ ...other, map, uses: [good[0], other], title: `${other.run} − ${good[0].run}`, steps: other.step === good[0].step ? `step ${other.step}` : `step ${other.step} − step ${good[0].step}` });
      else element.append(note(`${other.run} has other tokens than ${good[0].run}, so there is no difference of maps.`, "warning"));
    }
  } else {
    shown.push(...good.map((one) => ({ ...one, uses: [one], title: one.run, steps: `step ${one.step}` })));
  }
  if (!shown.length) return element;
  const scale = makeScale(scaleSettings(shown.map((one) => one.map), state));
  element.append(legend(scale, colours, shown[0].map));
  for (const text of new Set(shown.flatMap((one) => one.notes))) element.append(note(text));
  const room = Math.min(640, Math.max(300, state.width / Math.min(shown.length, 3) - 24));
  element.append(el("div", { className: "side-by-side" }, ...shown.map((one) => {
    const figure = el("figure", {}, el("figcaption", {}, el("strong", { textContent: one.title }), ` ${one.steps}`),
      mapPanel(one.map, { scale, colours, room }));
    figure.dataset.run = one.run;
    figure.style.maxWidth = `${room}px`; // so that long lines do not push the maps apart
    for (const { run, use } of one.uses.filter(({ use }) => use)) {
      const line = use.cloneNode(true); // the first run stands beside every difference
      if (one.uses.length > 1) line.prepend(`${run}: `);
      figure.append(line);
    }
    return figure;
  })));
  return element;
}
