// The same head, or the mean over heads, of two or more runs: side by side, or what each differs from one of them. Seeds of a
// variant can be averaged. Heads of models that were trained apart have no common numbers: they are paired by what they read.

import { effectLine, effectOf, howToMeasure } from "./ablation.js";
import { makeScale, short } from "./colours.js";
import { json } from "./data.js";
import { difference, headName, mean, scaleSettings, shownMaps } from "./derive.js";
import { el, menu, note, tick } from "./dom.js";
import { legend } from "./legend.js";
import { runName, seedsOf, variantName } from "./names.js";
import { mapPanel } from "./panel.js";
import { mapRows } from "./sheet.js";

/** Of a run's steps the one that is nearest to a step. */
const nearest = (steps, step) => steps.reduce((best, s) => (Math.abs(s - step) < Math.abs(best - step) ? s : best));

/** The step of a run's map that is shown. */
async function stepOf(run, { sentence, layer, runs, step }) {
  const layers = runs[run]?.sentences[sentence];
  if (!layers) throw new Error(`it has no maps of the sentence “${sentence}”`);
  if (!layers.includes(layer)) throw new Error(`it has no map of layer ${layer}`);
  return nearest((await json("steps", { run, sentence, layer: layers[0] })).steps, step);
}

/** The head of a run that is set beside the chosen head of the first run: {head, overlap}, overlap null where none was sought. */
async function pairOf(run, step, first, state) {
  if (state.mean || state.rollout || state.byNumber || run === first.run) return { head: state.head, overlap: null };
  const { sentence, layer } = state;
  const { pairs, overlaps } = await json("pairs", { run: first.run, step: first.step, other: run, other_step: step, sentence, layer });
  if (pairs[state.head] === null || pairs[state.head] === undefined) throw new Error(`no head of its layer ${layer} is left for head ${state.head}`);
  return { head: pairs[state.head], overlap: overlaps[state.head] };
}

/** One run's map: {run, step, head, overlap, map, notes, use}. */
async function mapOf(run, first, state) {
  const { sentence, layer } = state;
  const step = await stepOf(run, state);
  const { head, overlap } = await pairOf(run, step, first, state);
  const shown = await shownMaps({ run, sentence, layer, step, layers: state.runs[run].sentences[sentence] }, state);
  if (state.mean) return { run, step, head: null, overlap, map: mean(shown.heads), notes: shown.notes };
  if (state.rollout) return { run, step, head: null, overlap, map: shown.heads[0], notes: shown.notes };
  if (head >= shown.heads.length) throw new Error(`layer ${layer} has ${shown.heads.length} heads`);
  const curves = await json("curves", { run, layer }).catch(() => ({}));
  const effect = effectOf(curves, headName(layer, head).replace(" ", ""), state.ablation);
  return { run, step, head, overlap, map: shown.heads[head], notes: shown.notes, use: effect && effectLine(effect) };
}

/** The mean over the seeds of a variant as one map: {name, runs, step, map, notes, heads, uses}. */
async function entryOf(runs, first, state, failed) {
  const results = await Promise.allSettled(runs.map((run) => mapOf(run, first, state)));
  results.forEach((result, i) => { if (result.status === "rejected") failed.push(`${runs[i]}: ${result.reason.message}`); });
  const all = results.filter((result) => result.status === "fulfilled").map((result) => result.value);
  if (!all.length) return null;
  const alike = all.filter((one) => difference(one.map, all[0].map));
  if (alike.length < all.length) failed.push(`${variantName(runs[0], state)}: seeds with other tokens are left out of the mean`);
  const steps = new Set(alike.map((one) => one.step));
  if (steps.size > 1) failed.push(`${variantName(runs[0], state)}: the seeds' nearest maps are of steps ${[...steps].join(", ")}`);
  return {
    name: runs.length > 1 || state.seeds ? `${variantName(runs[0], state)}, mean over ${alike.length} seed${alike.length === 1 ? "" : "s"}` : runName(runs[0], state),
    runs: alike.map((one) => one.run), step: alike[0].step, notes: alike[0].notes,
    map: alike.length > 1 ? { ...mean(alike.map((one) => one.map)), signed: alike.some((one) => one.map.signed) } : alike[0].map,
    heads: alike, uses: alike.filter((one) => one.use),
  };
}

/** In which way heads of several models belong together, with what is known and not known about it. */
function caution(entries, first, state) {
  if (state.mean || state.rollout) return [];
  const heads = entries.flatMap((entry) => entry.heads).filter((one) => one.run !== first.run);
  if (!heads.length) return [];
  if (state.byNumber) {
    return [note("Heads are set beside each other by their numbers. In models that were trained apart, a number means nothing: head 0 of one need not be head 0 of another.", "warning")];
  }
  const list = heads.map((one) => `${runName(one.run, state)}: head ${one.head} (${short(one.overlap, 2)})`).join("; ");
  return [el("p", { className: "note pairs" }, el("strong", { textContent: "Heads of models that were trained apart have no common numbers. " }),
    `Each is paired with the head of ${runName(first.run, state)} that reads most like it on this sentence: for head ${state.head}, ${list}. `
    + "In brackets is the share of attention that both give to the same tokens; a pair that overlaps little is no pair, and one that overlaps need not do the same.")];
}

/** What is drawn: the entries, or their differences from one of them. */
function drawings(entries, base, element, state) {
  const title = (entry) => entry.name;
  if (state.how !== "difference" || entries.length < 2) {
    return entries.map((entry) => ({ ...entry, title: title(entry), steps: `step ${entry.step}` }));
  }
  const shown = [];
  for (const other of entries.filter((entry) => entry !== base)) {
    const map = difference(other.map, base.map);
    if (!map) {
      element.append(note(`${other.name} has other tokens than ${base.name}, so there is no difference of maps.`, "warning"));
      continue;
    }
    const apart = other.step !== base.step;
    if (apart) element.append(note(`These are maps of different steps: ${other.name} at step ${other.step}, ${base.name} at step ${base.step}.`, "warning"));
    shown.push({ ...other, map, uses: [...base.uses, ...other.uses], title: `${title(other)} − ${title(base)}`,
      steps: apart ? `step ${other.step} − step ${base.step}` : `step ${other.step}` });
  }
  return shown;
}

/** The view: {element, sheet}. */
export async function compareView({ state, colours, update }) {
  const ticked = [...state.compared].filter((run) => run in state.runs);
  const groups = state.seeds ? [...new Map(ticked.map((run) => [variantName(run, state), seedsOf(run, state)])).values()] : ticked.map((run) => [run]);
  const bar = el("div", { className: "bar" },
    menu("Show", [["side", "side by side"], ["difference", "difference"]], state.how, (how) => update({ how })));
  if (state.how === "difference") {
    const names = groups.map((runs) => [runs[0], state.seeds ? variantName(runs[0], state) : runName(runs[0], state)]);
    bar.append(menu("from", names, names.some(([run]) => run === state.base) ? state.base : names[0]?.[0], (base) => update({ base })));
  }
  bar.append(tick("mean over seeds", state.seeds, (seeds) => update({ seeds }), "all seeds of each ticked run's variant, as one map"),
    tick("mean over heads", state.mean, (value) => update({ mean: value })));
  if (!state.mean && !state.rollout) {
    bar.append(tick("pair heads by what they read", !state.byNumber, (on) => update({ byNumber: !on }), "otherwise by their numbers"));
  }
  const element = el("section", { className: "view compare-view" }, bar);
  if (groups.length < 2) element.append(note(state.seeds ? "Tick runs of two or more variants to compare them." : "Tick two or more runs to compare them.", "warning"));
  const failed = [];
  const origin = groups.find((runs) => runs[0] === state.base) ?? groups[0] ?? [];
  const first = { run: origin[0], step: origin[0] && await stepOf(origin[0], state).catch(() => null) };
  const found = await Promise.all(groups.map((runs) => entryOf(runs, first, state, failed)));
  const entries = found.filter(Boolean);
  const base = found[groups.indexOf(origin)] ?? entries[0];
  const subject = state.rollout ? `layer ${state.layer}, rollout`
    : state.mean ? `layer ${state.layer}, mean over heads` : `layer ${state.layer}, head ${state.head}`;
  element.append(el("h2", { textContent: subject }), ...failed.map((text) => note(text, "warning")));
  const shown = drawings(entries, base, element, state);
  if (!shown.length) return { element };
  element.append(...caution(entries, first, state));
  for (const text of new Set(shown.flatMap((one) => one.notes))) element.append(note(text));
  const room = Math.min(640, state.width, Math.max(300, state.width / Math.min(shown.length, 3) - 24));
  const high = Math.max(360, state.height - 150);
  const items = [];
  for (const signed of [false, true]) { // two colours and 0 in the middle only where something is below 0
    const some = shown.filter((one) => one.map.signed === signed);
    if (!some.length) continue;
    const scale = makeScale(scaleSettings(some.map((one) => one.map), state));
    const colourBar = legend(scale, colours, some[0].map);
    const figures = some.map((one) => figureOf(one, shown.indexOf(one), { scale, colours, room, high }, state));
    element.append(colourBar, el("div", { className: "side-by-side" }, ...figures.map(({ figure }) => figure)));
    items.push(...figures.map(({ item }) => item), { ...colourBar.item, own: true });
  }
  const unmeasured = shown.flatMap((one) => one.heads).find((one) => one.head !== null && !one.use && state.runs[one.run].ablate);
  if (unmeasured) element.append(howToMeasure(state.runs[unmeasured.run].ablate));
  const rows = () => mapRows(["map", "step"], shown.map((one) => ({ map: one.map, about: [one.title, one.steps] })));
  return { element, sheet: { items, rows } };
}

function figureOf(one, i, { scale, colours, room, high }, state) {
  const panel = mapPanel(one.map, { scale, colours, room, high, name: one.title, id: `map-${i}`, zoom: "compare" });
  const heads = one.heads.filter(({ head }) => head !== null);
  const which = heads.length === 1 && !state.byNumber ? `, head ${heads[0].head}` : "";
  const figure = el("figure", {}, el("figcaption", {}, el("strong", { textContent: one.title }), el("span", { className: "steps", textContent: one.steps + which })), panel);
  figure.dataset.run = one.runs[0];
  figure.style.maxWidth = `${room}px`; // so that long lines do not push the maps apart
  for (const { run, use } of one.uses) {
    const line = use.cloneNode(true); // the one that is subtracted stands beside every difference
    if (state.how === "difference") line.prepend(`${runName(run, state)}: `);
    figure.append(line);
  }
  return { figure, item: { ...panel.item, title: `${one.title}, ${one.steps}` } };
}
