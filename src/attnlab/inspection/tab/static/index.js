// The tab: keeps what is chosen, asks for what that needs and draws it anew. TensorBoard calls `render`.

import { addressOf, empty, onAddress, readAddress, UNNAMED, writeAddress } from "./address.js";
import { palette } from "./colours.js";
import { controlBar, runList, showStep, viewBar } from "./controls.js";
import { json, layerMap } from "./data.js";
import { el, note } from "./dom.js";
import { namesOf, runName } from "./names.js";
import { save } from "./sheet.js";
import { compareView } from "./view_compare.js";
import { gridView } from "./view_grid.js";
import { headView } from "./view_head.js";
import { linesView } from "./view_lines.js";
import { trainingView } from "./view_training.js";

const VIEWS = { grid: gridView, head: headView, lines: linesView, compare: compareView, training: trainingView };
const EVERY = 10_000; // milliseconds between two looks for new steps
const PLAY = 450; // milliseconds a step is shown
const FEW = 60; // a run writes at most this many map steps

const state = {
  runs: {}, foreign: 0, samples: { kept: 0, wanted: "" }, ablation: {}, emergence: {}, search: "",
  about: {}, names: new Map(), ...UNNAMED, ...empty(), playing: null, notice: "", unfolded: false, options: window.innerHeight > 800 && window.innerWidth > 760,
  sentences: [], layers: [], steps: [], nHeads: 1, text: "", width: 800, height: 600, firstSentence: true,
};
const parts = {
  side: el("aside", { className: "side-bar", "aria-label": "runs" }), top: el("header"),
  main: el("main", {}), shown: el("div", { id: "shown", role: "tabpanel" }),
};
let sheet = null; // of what is shown
let turn = 0;

/** Change what is chosen and draw. */
async function update(changes) {
  const before = { ...state };
  Object.assign(state, changes);
  if ("step" in changes && state.playing && !changes.playing) stop();
  if (state.view === "compare" && state.compared.size === 0) tickTwo();
  if (state.run !== before.run || state.sentence !== before.sentence || state.layer !== before.layer) state.row = null;
  state.notice = "";
  const onlyStep = Object.keys(changes).every((key) => key === "step" || key === "playing");
  await draw({ anew: state.run !== before.run || state.sentence !== before.sentence, onlyStep });
}

/** The first comparison: the run that is shown and the next one with the same sentence. */
function tickTwo() {
  const alike = Object.keys(state.runs).filter((run) => state.sentence in state.runs[run].sentences);
  const other = alike[(alike.indexOf(state.run) + 1) % alike.length];
  state.compared = new Set([state.run, other]);
}

/** Sentence, layers and steps of the run that is shown; what was chosen before is kept where the run has it. */
async function settle() {
  const mine = state.runs[state.run].sentences;
  state.sentences = Object.keys(mine);
  if (!(state.sentence in mine)) state.sentence = "probe" in mine ? "probe" : state.sentences[0];
  state.firstSentence = state.sentence === "probe" || !("probe" in mine);
  state.layers = mine[state.sentence];
  if (!state.layers.includes(state.layer)) state.layer = state.layers[0];
  const { run, sentence, layers } = state;
  const { steps } = await json("steps", { run, sentence, layer: layers[0] });
  if (run !== state.run || sentence !== state.sentence) return;
  const atEnd = state.step === null || state.step === state.steps[state.steps.length - 1];
  state.steps = steps;
  if (atEnd) state.step = steps[steps.length - 1];
  else if (!steps.includes(state.step)) state.step = steps.filter((s) => s <= state.step).pop() ?? steps[0];
}

/** What the bar says of the layer that is shown: its heads and the text, as far as its map can be read. */
async function readLayer() {
  const { run, sentence, layer, step, view } = state;
  const map = await layerMap({ run, sentence, layer, step, most: view === "grid" && !state.rollout ? 128 : 512 }).catch(() => null);
  if (!map || run !== state.run || layer !== state.layer) return;
  state.nHeads = map.heads;
  state.text = map.text.replace(/[^\P{C}\n\t]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`); // no hidden turns
  if (state.head >= map.heads && view !== "compare") state.head = map.heads - 1;
}

async function draw({ anew = false, onlyStep = false } = {}) {
  const mine = ++turn;
  const dark = isDark();
  document.documentElement.className = dark ? "dark" : "light";
  if (!state.run) {
    parts.shown.replaceChildren(...nothingYet());
    return;
  }
  let content;
  try {
    if (anew) await settle();
    if (!parts.top.children.length) { // the view is as high as the bar leaves room for
      await readLayer();
      if (mine !== turn) return;
      drawControls();
    }
    const style = getComputedStyle(parts.main);
    state.width = Math.max(280, parts.main.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight));
    state.height = Math.max(320, window.innerHeight - parts.top.offsetHeight - 44);
    content = await VIEWS[state.view]({ state, colours: palette(dark), update });
  } catch (error) {
    content = { element: note(error.message, "warning") };
  }
  await readLayer();
  if (mine !== turn) return; // something else was chosen meanwhile
  if (onlyStep && parts.top.children.length) showStep(parts.top, state);
  else drawControls();
  const focused = document.activeElement?.id;
  const within = parts.shown.contains(document.activeElement);
  parts.shown.replaceChildren(content.element);
  parts.shown.setAttribute("aria-labelledby", `view-${state.view}`);
  if (focused && within) document.getElementById(focused)?.focus({ preventScroll: true });
  sheet = content.sheet ?? null;
  for (const button of parts.top.querySelectorAll("[id^=save-]")) button.disabled = !sheet;
  writeAddress(state, isNewPlace());
  document.body.dataset.drawn = String(mine);
}

/** What is shown as a file. */
function keep(kind) {
  const { run, sentence, step, layer, view } = state;
  const title = `${run}, sentence “${sentence}”, step ${step}`;
  const name = ["attention", view, run, `layer${layer}`, `step${step}`].join("_");
  return save(kind, { ...sheet, title, name }, palette(isDark()));
}

let placeBefore = null;

/** Whether another run or view is shown than in the drawing before: somewhere to go back from. */
function isNewPlace() {
  const place = JSON.stringify([state.run, state.view]);
  const isNew = placeBefore !== null && place !== placeBefore;
  placeBefore = place;
  return isNew;
}

/** Show what the address says. */
async function open() {
  stop();
  Object.assign(state, UNNAMED, empty(), { steps: [], notice: "" }, readAddress());
  placeBefore = null; // the address is there already
  settleRun();
  await draw({ anew: true });
}

/** The run that is shown: the one asked for, or else the newest, which is said. */
function settleRun() {
  const names = Object.keys(state.runs);
  state.compared = new Set([...state.compared].filter((run) => run in state.runs));
  if (state.run in state.runs) return;
  const gone = state.run;
  state.run = names.reduce((a, b) => (a && state.runs[a].written >= state.runs[b].written ? a : b), null);
  if (gone && state.run) state.notice = `The run ${gone} is not in this folder (any more); this is ${runName(state.run, state)}.`;
}

/** The list of runs and the controls; where one was in them is kept. */
function drawControls() {
  const focused = document.activeElement?.id;
  const scrolled = parts.side.querySelector(".runs")?.scrollTop ?? 0;
  parts.side.replaceChildren(runList(state, update));
  parts.side.querySelector(".runs").scrollTop = scrolled;
  parts.top.replaceChildren(viewBar(state, update, () => addressOf(state), keep), controlBar(state, update, play), ...warnings(),
    el("p", { className: "sentence", textContent: state.text }));
  if (focused) document.getElementById(focused)?.focus();
}

function nothingYet() {
  return [el("h2", { textContent: "No attention maps yet" }),
    note("None of the runs in this folder has written a map so far. A run writes its first maps before its first update; they appear here without a reload."),
    ...warnings()];
}

/** What keeps the tab from showing everything. */
function warnings() {
  const found = state.notice ? [state.notice] : [];
  const { kept, wanted } = state.samples;
  if (kept === null) {
    found.push(`TensorBoard keeps only about 10 steps of each map. To see every step, start it with ${wanted}`);
  } else if (kept > 0 && kept < FEW) {
    found.push(`TensorBoard keeps only ${kept} steps of each map. To see every step, start it with ${wanted}`);
  }
  if (state.foreign) {
    found.push(`${state.foreign} ${state.foreign === 1 ? "series was" : "series were"} written under the name “attention” by another program; they are left out.`);
  }
  return found.map((text) => note(text, "warning"));
}

/** Look for new runs and steps. */
async function refresh() {
  const said = await json("runs");
  const grown = JSON.stringify(said.runs) !== JSON.stringify(state.runs);
  Object.assign(state, said);
  if (grown) state.names = namesOf(state.runs, state.about);
  settleRun();
  if (grown || !state.run) await draw({ anew: true });
  await learn();
}

/** What is known of the runs beside their maps comes after the first drawing: losses, which are written, what differs. */
async function learn() {
  const about = await json("about");
  if (JSON.stringify(about) === JSON.stringify(state.about)) return;
  state.about = about;
  state.names = namesOf(state.runs, about);
  if (state.run) drawControls();
}

function stop() {
  clearInterval(state.playing);
  state.playing = null;
}

/** Start or stop playing the steps; from the last step it begins anew. */
function play() {
  if (state.playing) {
    stop();
    return draw();
  }
  if (state.step === state.steps[state.steps.length - 1]) state.step = state.steps[0];
  state.playing = setInterval(() => {
    const next = state.steps[state.steps.indexOf(state.step) + 1];
    if (next === undefined) {
      stop();
      draw();
    } else {
      update({ step: next, playing: state.playing });
    }
  }, PLAY);
  return draw();
}

/** Another member of a list, `by` places on, within its ends. */
function moved(list, current, by) {
  return list[Math.max(0, Math.min(list.length - 1, list.indexOf(current) + by))];
}

function onkey(event) {
  const target = event.target;
  if (target instanceof HTMLSelectElement || target.closest?.("summary") || (target instanceof HTMLInputElement && target.type === "search")) return;
  if (!state.run || event.ctrlKey || event.altKey || event.metaKey) return;
  const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  const heads = Array.from({ length: state.nHeads }, (_, h) => h);
  if (by === undefined) {
    if (event.key !== " " || target instanceof HTMLButtonElement) return;
    play();
  } else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
    update({ layer: moved(state.layers, state.layer, by) });
  } else if (event.shiftKey) {
    update({ head: moved(heads, state.head, by) });
  } else {
    update({ step: moved(state.steps, state.step, by) });
  }
  event.preventDefault();
}

/** TensorBoard's own page knows whether it is dark; this one lies in a frame on it. */
function isDark() {
  const outside = window.parent.document.body.classList;
  return outside.contains("dark-mode");
}

export async function render() {
  document.title = "Attention";
  const style = el("link", { rel: "stylesheet", href: "./static/style.css" });
  const styled = new Promise((resolve) => { style.onload = style.onerror = resolve; });
  document.head.append(style);
  document.documentElement.lang = "en";
  parts.main.append(parts.shown);
  document.body.append(parts.side, el("div", { className: "content" }, parts.top, parts.main));
  document.addEventListener("keydown", onkey);
  onAddress(open);
  Object.assign(state, readAddress());
  new MutationObserver(() => draw()).observe(window.parent.document.body, { attributeFilter: ["class"] });
  let resized;
  window.addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(draw, 150);
  });
  await styled;
  const look = () => refresh().catch((error) => parts.shown.replaceChildren(note(`TensorBoard does not answer: ${error.message}`, "warning")));
  await look();
  setInterval(() => { if (document.visibilityState === "visible") look(); }, EVERY);
}
