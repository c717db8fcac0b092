// The figure and its controls: which word asks, which head, which step; the number that is pointed at; quiz, play, saving.
const data = JSON.parse(document.getElementById("flow-data").textContent);
const flows = data.flows.map((each) => new Flow(each));
const home = document.querySelector(".flow"), stage = home.querySelector(".flow-stage"), panel = home.querySelector(".flow-panel"), caption = home.querySelector(".flow-caption");
const words = home.querySelector(".flow-words");
const state = { flow: 0, token: 0, head: 0, step: 0, quiz: false, number: "", figure: "" };
const revealed = new Set();
let plan = null, timer = 0, pinned = "", printing = false;

const now = () => flows[state.flow];
const steps = () => now().stages.length;
const button = (text, act, name) => {
  const b = document.createElement("button");
  b.type = "button";
  b.textContent = text;
  if (name) b.setAttribute("aria-label", name);
  b.addEventListener("click", act);
  return b;
};

function describe(n, at) {
  const f = now(), hidden = state.quiz && asked(n) && !revealed.has(id(n, at));
  const value = f.hidden(n, at) ? (n.rule === "mask" ? "minus infinity" : "0") : write(f.value(n, at));
  return `${f.called(n, at)}${f.which(n, at)}: ${hidden ? "hidden" : value}`;
}
const asked = (n) => n.kind !== "matrix" && n.key !== "inputs" && n.key !== "embedded";

function render() {
  plan = new Plan(now(), state, printing ? 1400 : Math.max(320, stage.clientWidth));
  const svg = draw(plan, describe);
  stage.replaceChildren(svg);
  for (const group of svg.querySelectorAll(".number")) cover(group);
  show();
}

function cover(group) {
  const text = group.querySelector(".value"), n = now().node(group.dataset.id.slice(0, group.dataset.id.lastIndexOf(":")));
  const hidden = state.quiz && asked(n) && !revealed.has(group.dataset.id);
  text.textContent = hidden ? "?" : text.dataset.text;
  group.classList.toggle("covered", hidden);
}

// Steps show and hide; nothing moves.
function show() {
  const svg = stage.querySelector("svg"), f = now();
  for (const g of svg.querySelectorAll("g[data-step]")) {
    const at = Number(g.dataset.step), later = at > state.step;
    g.classList.toggle("later", later);
    g.classList.toggle("now", at === state.step);
    later ? g.setAttribute("aria-hidden", "true") : g.removeAttribute("aria-hidden");
  }
  const [, title, text] = f.stages[state.step], word = f.tokens[state.token];
  caption.replaceChildren(Object.assign(document.createElement("b"), { textContent: `${state.step + 1}. ${title}.` }), ` ${text} Followed here: ${word}, word ${f.places[state.token]} of ${f.all}.`);
  for (const b of home.querySelectorAll("[data-to]")) b.setAttribute("aria-pressed", String(state[b.dataset.of] === Number(b.dataset.to)));
  home.querySelector(".flow-quiz").setAttribute("aria-pressed", String(state.quiz));
  const select = home.querySelector(".flow-bar select");
  if (select) {
    const fits = data.figures.filter((one) => one.name === f.name && state.token === (one.token ?? f.focus) && state.step === stepOf(f, one));
    const shown = fits.find((one) => one.number === state.figure) || fits[0];
    state.figure = shown ? shown.number : "";
    select.value = String(data.figures.indexOf(shown));
  }
  everyWord();
  rove(svg.querySelector(`.number[data-id="${CSS.escape(state.number)}"]`) || svg.querySelector("g:not(.later) > .number"));
  tell(pinned);
  address();
}

// The numbers of every pair at this step: the figure has a row of them, that of the word which reads.
function everyWord() {
  const f = now(), n = f.nodes.filter((one) => one.kind === "pair" && one.step <= state.step).at(-1);
  words.replaceChildren();
  if (!n || f.asks.length < 2) return;
  const h = f.head(n, state.head), table = document.createElement("table"), head = table.createTHead().insertRow(), body = table.createTBody();
  const cell = (row, tag, text) => row.appendChild(Object.assign(document.createElement(tag), { textContent: text }));
  table.createCaption().textContent = `${n.title}${n.shape[0] > 1 ? `, head ${h + 1}` : ""}: every word. A row reads, columns are read.`;
  for (const text of ["reads", ...f.tokens]) cell(head, "th", text).scope = "col";
  const digits = stage.clientWidth / (f.tokens.length + 1) < 62 ? 2 : 4;
  f.asks.forEach((lane, i) => {
    const row = body.insertRow(), name = cell(row, "th", "");
    name.scope = "row";
    name.append(button(f.tokens[lane], () => (go({ token: lane }), follow(String(lane)))));
    row.className = lane === state.token ? "asking" : "";
    f.tokens.forEach((_, j) => {
      const at = [h, i, j], value = f.value(n, at), never = f.hidden(n, at), key = id(n, at);
      const text = never ? (n.rule === "mask" ? "−∞" : "0") : write(value, digits), one = cell(row, "td", state.quiz && !revealed.has(key) ? "?" : text);
      one.dataset.cell = key;
      one.className = `${role(n)}${never ? " never" : ""}`;
      one.style.setProperty("--s", `${never ? 0 : Math.round(Math.min(1, Math.abs(value) / n.top) * 62)}%`);
    });
  });
  words.append(table);
}

function rove(group) {
  for (const g of stage.querySelectorAll('.number[tabindex="0"]')) g.setAttribute("tabindex", "-1");
  if (group) group.setAttribute("tabindex", "0");
}

// What a number was made of: its sum, the line of source, and its parts marked in the figure.
function tell(key) {
  for (const g of stage.querySelectorAll(".part, .chosen")) g.classList.remove("part", "chosen");
  state.number = key;
  const box = plan.boxes.get(key);
  if (!box) return panel.replaceChildren(Object.assign(document.createElement("p"), { className: "soft", textContent: "Point at a number, or go to it with the arrow keys, to see what it was made of." }));
  const f = now(), { n, at } = box, made = madeOf(f, n, at), covered = state.quiz && asked(n) && !revealed.has(key);
  mark(key, "chosen");
  for (const part of made.parts) mark(part, "part");
  const value = f.hidden(n, at) ? (n.rule === "mask" ? "−∞" : "0") : n.kind === "words" ? `${n.labels[at[0]][at[1]]}, ${write(100 * f.value(n, at), 2)} %` : given(n) ? trimmed(f.value(n, at)) : write(f.value(n, at));
  const sum = document.createElement("p"), result = document.createElement("b");
  result.textContent = covered ? "?" : value;
  sum.className = "flow-sum";
  sum.append(`${f.called(n, at)}${f.which(n, at)} = ${made.formula ? made.formula + " = " : ""}`, result);
  const words = document.createElement("p");
  words.textContent = `${n.title}${n.shape[0] > 1 && n.kind !== "state" && n.kind !== "words" ? `, head ${at[0] + 1}` : ""}${made.text && made.text !== n.title ? `: ${made.text}` : ""}.${covered ? " Work it out, then press Enter or click." : ""}`;
  panel.replaceChildren(sum, words);
  if (n.source) {
    const line = document.createElement("p"), where = document.createElement("span"), code = document.createElement("code");
    where.textContent = `${n.source[0]}:${n.source[1]}`;
    code.textContent = n.source[2];
    line.className = "flow-source";
    line.append(where, " ", code);
    panel.append(line);
  }
}

function mark(key, name) {
  stage.querySelector(`.number[data-id="${CSS.escape(key)}"]`)?.classList.add(name);
}

function reveal(group) {
  revealed.add(group.dataset.id);
  cover(group);
  everyWord();
}

function go(changes) {
  const redraw = Object.keys(changes).some((key) => ["flow", "token", "head", "quiz"].includes(key));
  if ("flow" in changes && changes.flow !== state.flow) {
    Object.assign(state, { step: flows[changes.flow].stages.length - 1, head: 0 });
    pinned = "";
  }
  Object.assign(state, changes);
  const f = now();
  state.step = Math.max(0, Math.min(state.step, steps() - 1));
  if (!f.asks.includes(state.token)) state.token = f.focus;
  state.head = Math.min(state.head, f.heads - 1);
  if ("flow" in changes) controls();
  if (redraw) render();
  else show();
}

function play() {
  if (timer) return pause();
  if (state.step === steps() - 1) go({ step: 0 });
  timer = setInterval(() => (state.step < steps() - 1 ? go({ step: state.step + 1 }) : pause()), 1800);
  home.querySelector(".flow-play").textContent = "Stop";
}
function pause() {
  clearInterval(timer);
  timer = 0;
  home.querySelector(".flow-play").textContent = "Play";
}

function choices(name, of, texts, label) {
  const group = document.createElement("div");
  group.className = `flow-choices ${name}`;
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", label);
  texts.forEach((text, i) => {
    const b = button("", () => (pause(), go({ [of]: i })));
    for (const part of [text].flat()) b.append(Object.assign(document.createElement("span"), { textContent: part }), " ");
    b.dataset.of = of;
    b.dataset.to = i;
    group.append(b);
  });
  return group;
}

function controls() {
  const f = now(), bar = home.querySelector(".flow-bar"), turn = document.createElement("div");
  turn.className = "flow-choices";
  const player = button(timer ? "Stop" : "Play", play), quiz = button("Quiz", () => (revealed.clear(), go({ quiz: !state.quiz })));
  player.className = "flow-play";
  quiz.className = "flow-quiz";
  turn.append(button("←", () => (pause(), go({ step: state.step - 1 })), "One step back"), player, button("→", () => (pause(), go({ step: state.step + 1 })), "One step on"), quiz, button("Save SVG", save));
  const parts = [turn, choices("steps", "step", f.stages.map(([, title], i) => [i + 1, title]), "Steps")];
  if (flows.length > 1) parts.unshift(choices("kinds", "flow", flows.map((one) => one.heading), "What is drawn"));
  if (f.heads > 1) parts.push(choices("heads", "head", Array.from({ length: f.heads }, (_, i) => `head ${i + 1}`), "Heads"));
  if (data.figures.length) parts.push(pictures());
  bar.replaceChildren(...parts);
}

function pictures() {
  const label = document.createElement("label"), select = document.createElement("select");
  select.append(new Option("…", -1), ...data.figures.map((one, i) => new Option(`${one.number} ${one.title}`, i)));
  select.addEventListener("change", () => select.value >= 0 && (pause(), open(data.figures[select.value])));
  label.append("Figure of the chapter ", select);
  return label;
}

// The step at which a figure of the chapter stands still: its own, or all of them.
function stepOf(f, figure) {
  return (figure.step ? f.order.get(figure.step) : undefined) ?? f.stages.length - 1;
}

function open(figure) {
  const flow = Math.max(0, flows.findIndex((f) => f.name === figure.name)), f = flows[flow];
  state.figure = figure.number || "";
  go({ flow, token: figure.token ?? f.focus, step: stepOf(f, figure) });
  follow(String(state.token));
}

// The address holds what is shown: a reload and a link that is sent show the same.
function address() {
  const f = now(), where = new URLSearchParams();
  if (flows.length > 1) where.set("show", f.name);
  where.set("word", f.places[state.token]);
  if (f.heads > 1) where.set("head", state.head + 1);
  where.set("step", f.stages[state.step][0]);
  if (pinned) where.set("number", pinned);
  if (state.quiz) where.set("quiz", 1);
  if (state.figure) where.set("figure", state.figure);
  history.replaceState(null, "", `#${where}`);
}
function fromAddress() {
  const where = new URLSearchParams(location.hash.slice(1));
  if (!where.has("step")) return open(data.start);
  const flow = Math.max(0, flows.findIndex((f) => f.name === where.get("show"))), f = flows[flow];
  pinned = where.get("number") || "";
  state.figure = where.get("figure") || "";
  const token = f.places.indexOf(Number(where.get("word")));
  const kept = pinned;
  go({ flow, token: token < 0 ? f.focus : token, head: Math.max(0, Number(where.get("head") || 1) - 1), quiz: where.has("quiz"), step: f.order.get(where.get("step")) ?? f.stages.length - 1 });
  pinned = kept;
  tell(pinned);
  follow(String(state.token));
}

// The picture as a file of its own: every colour is written into it.
function save() {
  const svg = stage.querySelector("svg").cloneNode(true), from = [...stage.querySelectorAll("svg, svg *")], to = [svg, ...svg.querySelectorAll("*")];
  const kept = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "fill-opacity", "font-family", "font-size", "font-weight", "font-style", "text-anchor", "display"];
  from.forEach((element, i) => {
    const style = getComputedStyle(element);
    to[i].setAttribute("style", kept.map((name) => `${name}:${style.getPropertyValue(name)}`).join(";"));
    for (const name of ["class", "tabindex", "role"]) to[i].removeAttribute(name);
  });
  svg.setAttribute("xmlns", SVG);
  svg.style.background = getComputedStyle(document.body).backgroundColor;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(svg)], { type: "image/svg+xml" }));
  link.download = `${now().name.replaceAll("/", "-")}-${now().stages[state.step][0]}.svg`;
  link.click();
  URL.revokeObjectURL(link.href);
}

// Pointing, clicking, keys
const at = (event) => event.target.closest?.(".number");
stage.addEventListener("pointerover", (event) => at(event) && tell(at(event).dataset.id));
stage.addEventListener("pointerleave", () => tell(pinned));
stage.addEventListener("focusin", (event) => at(event) && (rove(at(event)), tell(at(event).dataset.id)));
stage.addEventListener("click", (event) => choose(at(event)));
function choose(group) {
  if (!group) return;
  if (state.quiz) reveal(group);
  pinned = pinned === group.dataset.id && !state.quiz ? "" : group.dataset.id;
  tell(group.dataset.id);
  address();
}
stage.addEventListener("keydown", (event) => {
  const group = at(event), moves = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
  if (!group) return;
  if (event.key === "Enter" || event.key === " ") choose(group);
  else if (event.key === "Escape") (pinned = ""), tell("");
  else if (moves[event.key]) nearest(group, moves[event.key])?.focus();
  else return;
  event.preventDefault();
});

// The next number in a direction: near, and not far aside.
function nearest(group, [dx, dy]) {
  const middle = (g) => { const r = plan.rect(plan.boxes.get(g.dataset.id)); return [r.x + r.width / 2, r.y + r.height / 2]; };
  const [x, y] = middle(group);
  let best = null, least = Infinity;
  for (const g of stage.querySelectorAll("g:not(.later) > .number")) {
    const [gx, gy] = middle(g), ahead = (gx - x) * dx + (gy - y) * dy, aside = Math.abs((gx - x) * dy) + Math.abs((gy - y) * dx);
    if (ahead > 1 && ahead + 3 * aside < least) (best = g), (least = ahead + 3 * aside);
  }
  return best;
}

document.addEventListener("followed", (event) => {
  const lane = now().places.indexOf(event.detail + 1);
  if (lane >= 0 && lane !== state.token) go({ token: lane });
});
addEventListener("hashchange", fromAddress);
addEventListener("beforeprint", () => ((printing = true), render()));
addEventListener("afterprint", () => ((printing = false), render()));
new ResizeObserver(() => plan && Math.abs(plan.width - stage.clientWidth) > 1 && !printing && render()).observe(stage);
fromAddress();
