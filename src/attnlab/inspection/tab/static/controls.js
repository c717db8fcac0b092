// The list of runs on the left, and the bar above the view: what is shown, at which step, in which colours.

import { el, menu, tick } from "./dom.js";

export const VIEWS = [
  ["grid", "Grid", "all layers and heads"],
  ["head", "Head", "one map, large, and one of its rows"],
  ["compare", "Compare", "two or more runs"],
  ["training", "Over training", "one head from the first step to the last"],
];

/** The list of runs: a click shows a run, a tick takes it into the comparison. Only its rows are made, nothing read. */
export function runList(state, update) {
  const rows = el("div", { className: "runs", role: "list" });
  const fill = (wanted) => {
    const names = Object.keys(state.runs).filter((run) => run.toLowerCase().includes(wanted.toLowerCase()));
    rows.replaceChildren(...names.map((run) => {
      const box = el("input", { type: "checkbox", checked: state.compared.has(run), "aria-label": `compare ${run}`,
        title: "take into the comparison", onchange: () => {
          const compared = new Set(state.compared);
          if (box.checked) compared.add(run);
          else compared.delete(run);
          update({ compared, view: "compare" });
        } });
      const show = el("button", { className: run === state.run ? "run chosen" : "run", title: run, textContent: run,
        onclick: () => update({ run }) });
      show.dataset.run = run;
      return el("div", { className: "run-row", role: "listitem" }, box, show);
    }));
    if (!names.length) rows.append(el("p", { className: "note", textContent: "No run has this in its name." }));
  };
  const search = el("input", { type: "search", className: "search", id: "search", placeholder: "part of a name", value: state.search,
    "aria-label": "filter runs", oninput: () => { state.search = search.value; fill(search.value); } });
  fill(state.search);
  const n = Object.keys(state.runs).length;
  return el("aside", {}, el("h2", { textContent: n === 1 ? "1 run" : `${n} runs` }), search, rows,
    el("p", { className: "note", textContent: "Click a run to show it; tick runs to compare them." }),
    el("p", { className: "note", textContent: "Keys: ← → step, ↑ ↓ layer, shift + ← → head, space plays." }));
}

/** The views, one of them shown, and the link to what is shown. */
export function viewBar(state, update, address) {
  const tabs = VIEWS.map(([view, text, title]) => el("button", {
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
  return el("nav", {}, list, copyButton(address));
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
    if (!state.rollout) {
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
  return el("div", { className: "controls" }, el("div", { className: "fields" }, ...fields),
    el("div", { className: "fields options" }, ...options));
}

const stepText = (state) => `${state.step} (${state.steps.indexOf(state.step) + 1} of ${state.steps.length})`;

/** Another step alone: the slider stays in place, so that it can be dragged on. */
export function showStep(bar, state) {
  const slider = bar.querySelector("#step");
  slider.value = state.steps.indexOf(state.step);
  slider.setAttribute("aria-valuetext", `step ${state.step}`);
  bar.querySelector("#step-text").textContent = stepText(state);
}
