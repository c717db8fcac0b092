// The list of runs on the left, and the bar above the view: what is shown, at which step, in which colours.

import { short } from "./colours.js";
import { el, menu, tick } from "./dom.js";
import { runName } from "./names.js";

const TABS = [
  ["grid", "Grid", "all layers and heads"],
  ["head", "Head", "one map, large, and one of its rows"],
  ["lines", "Lines", "the heads of a layer over each other, as lines between two columns of tokens"],
  ["compare", "Compare", "two or more runs"],
  ["training", "Over training", "one head from the first step to the last"],
];

const STATES = { running: ["still being written", "● "], unfinished: ["cut off before its end", "◌ "] };

/** The list of runs: a click shows a run, a tick takes it into the comparison. Only its rows are made, nothing read. */
export function runList(state, update) {
  const rows = el("div", { className: "runs", role: "list", tabIndex: -1 });
  const fill = (wanted) => {
    const has = (text) => text.toLowerCase().includes(wanted.toLowerCase());
    const runs = Object.keys(state.runs).filter((run) => has(run) || has(runName(run, state)));
    rows.replaceChildren(...runs.map((run) => runRow(run, state, update)));
    if (!runs.length) rows.append(el("p", { className: "note", textContent: "No run has this in its name." }));
  };
  const search = el("input", { type: "search", className: "search", id: "search", placeholder: "part of a name", value: state.search,
    "aria-label": "filter runs", oninput: () => { state.search = search.value; fill(search.value); } });
  fill(state.search);
  const n = Object.keys(state.runs).length;
  const title = n === 1 ? "1 run" : `${n} runs`;
  const fold = el("button", { className: "small fold", id: "fold", type: "button", "aria-expanded": String(state.unfolded), "aria-controls": "run-list",
    textContent: `${state.unfolded ? "Hide" : "Show"} ${title}`, onclick: () => update({ unfolded: !state.unfolded }) });
  const body = el("div", { className: state.unfolded ? "run-list unfolded" : "run-list", id: "run-list" }, search, rows,
    el("p", { className: "note", textContent: "Click a run to show it; tick runs to compare them." }),
    el("p", { className: "note", textContent: "Keys: ← → step, ↑ ↓ layer, shift + ← → head, space plays." }));
  return el("div", { className: "runs-panel" }, fold, el("h2", { className: "count", textContent: title }), body);
}

function runRow(run, state, update) {
  const box = el("input", { type: "checkbox", checked: state.compared.has(run), "aria-label": `compare ${run}`, id: `tick-${run}`,
    title: "take into the comparison", onchange: () => {
      const compared = new Set(state.compared);
      if (box.checked) compared.add(run);
      else compared.delete(run);
      update({ compared, view: state.view === "training" ? "training" : "compare" });
    } });
  const { loss, status } = state.about[run] ?? {};
  const [words, sign] = STATES[status] ?? ["", ""];
  const value = loss === null || loss === undefined ? null : el("span", { className: "loss", textContent: short(loss), title: "lowest validation loss" });
  const show = el("button", { className: run === state.run ? "run chosen" : "run", title: words ? `${run}: ${words}` : run, id: `run-${run}`,
    "aria-current": String(run === state.run), onclick: () => update({ run, unfolded: false }) },
  el("span", { className: "run-name" }, sign ? el("span", { className: `status ${status}`, role: "img", "aria-label": words, textContent: sign }) : null,
    runName(run, state)), value);
  show.dataset.run = run;
  return el("div", { className: "run-row", role: "listitem" }, box, show);
}

/** The views, one of them shown, and how to take away what is shown: `address()` gives a link, `keep(kind)` a file. */
export function viewBar(state, update, address, keep) {
  const tabs = TABS.map(([view, text, title]) => el("button", {
    className: view === state.view ? "tab chosen" : "tab", title, textContent: text, id: `view-${view}`, role: "tab",
    "aria-selected": String(view === state.view), "aria-controls": "shown", tabIndex: view === state.view ? 0 : -1,
    onclick: () => update({ view }),
  }));
  const list = el("div", { role: "tablist", className: "tabs", "aria-label": "views", onkeydown: (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.stopPropagation(); // elsewhere the arrows change the step
    event.preventDefault();
    const next = tabs[(tabs.indexOf(document.activeElement) + by + tabs.length) % tabs.length];
    next.focus();
    next.click();
  } }, ...tabs);
  const files = [["png", "PNG", "what is shown as a picture"], ["svg", "SVG", "what is shown as lines and letters"], ["csv", "CSV", "the numbers of what is shown"]];
  const buttons = files.map(([kind, text, title]) => el("button", { id: `save-${kind}`, className: "small", type: "button", title, textContent: text,
    "aria-label": `save ${title}`, onclick: () => keep(kind) }));
  return el("nav", { "aria-label": "views" }, list, el("div", { className: "take", role: "group", "aria-label": "take away" }, copyButton(address), ...buttons));
}

/** Copies the address of what is shown; where the browser allows no copying, it stands there to be copied by hand. */
function copyButton(address) {
  const button = el("button", { id: "copy-link", className: "small", textContent: "Copy link", title: "a link that opens exactly this",
    onclick: async () => {
      const link = address();
      try {
        await navigator.clipboard.writeText(link);
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy link"; }, 1500);
      } catch {
        const box = el("input", { readOnly: true, value: link, className: "link", "aria-label": "link to what is shown" });
        button.replaceWith(box);
        box.select();
      }
    } });
  return button;
}

/** Sentence, layer, head, step and the options. */
export function controlBar(state, update, play) {
  const numbers = (list) => list.map((n) => [n, String(n)]);
  const heads = Array.from({ length: state.nHeads }, (_, h) => h);
  const fields = [menu("Sentence", state.sentences.map((s) => [s, s]), state.sentence, (sentence) => update({ sentence }))];
  if (state.view !== "grid") {
    fields.push(menu("Layer", numbers(state.layers), state.layer, (v) => update({ layer: Number(v) }), "arrow up, arrow down"));
    if (!state.rollout && state.view !== "lines") {
      fields.push(menu("Head", numbers(heads), state.head, (v) => update({ head: Number(v) }), "shift and arrow left, right"));
    }
  }
  const slider = el("input", { type: "range", id: "step", min: 0, max: Math.max(0, state.steps.length - 1), step: 1,
    value: state.steps.indexOf(state.step), disabled: state.steps.length < 2, "aria-label": "step",
    "aria-valuetext": `step ${state.step}`, oninput: () => update({ step: state.steps[Number(slider.value)] }) });
  const button = el("button", { className: "play", id: "play", textContent: state.playing ? "❚❚" : "▶",
    disabled: state.steps.length < 2, title: "space", "aria-label": state.playing ? "pause" : "play", onclick: play });
  fields.push(el("div", { className: "field step-field", title: "arrow left, arrow right" },
    el("span", { textContent: "Step" }), button, slider, el("output", { id: "step-text", textContent: stepText(state) })));
  const scales = [["sqrt", "square root"], ["linear", "linear"], ["log", "logarithmic"]];
  const options = [
    menu("Colours", scales, state.mode, (mode) => update({ mode })),
    tick("up to the largest weight shown", state.widest, (widest) => update({ widest }),
      "the last colour is the largest weight on this page; otherwise it is 1 where weights end at 1"),
    tick("without the first column", state.sink, (sink) => update({ sink }),
      "the first token takes nearly everything in many heads; the rest is not scaled up"),
    tick("value-weighted", state.weighted, (weighted) => update({ weighted, rollout: false }),
      "each weight times the length of the value it brings"),
    tick("rollout", state.rollout, (rollout) => update({ rollout, weighted: false }),
      "through all layers up to this one, the residual stream counting half"),
  ];
  const drawer = el("details", { className: "drawer", open: state.options, ontoggle: () => { state.options = drawer.open; } },
    el("summary", { id: "options", textContent: "Colours and options" }), el("div", { className: "fields options" }, ...options));
  return el("div", { className: "controls" }, el("div", { className: "fields" }, ...fields), drawer);
}

const stepText = (state) => `${state.step} (${state.steps.indexOf(state.step) + 1} of ${state.steps.length})`;

/** Another step alone: the slider stays in place, so that it can be dragged on. */
export function showStep(bar, state) {
  const slider = bar.querySelector("#step");
  slider.value = state.steps.indexOf(state.step);
  slider.setAttribute("aria-valuetext", `step ${state.step}`);
  bar.querySelector("#step-text").textContent = stepText(state);
}
