// The plan as SVG. A hue says whose number it is, its strength how large it is, stripes that it is below 0.
const SVG = "http://www.w3.org/2000/svg";
const ROLE = { q: "asks", k: "answers", v: "handed", u: "handed", z: "context", y: "context", h: "context", S: "context", A: "handed", ω: "match", α: "match", "e^ω": "match", Σ: "match" };
const role = (n) => ROLE[n.letter] || { "W_q": "asks", "W_k": "answers", "W_v": "handed", "W_o": "context", "b_o": "context" }[n.letter] || (n.kind === "pair" ? "match" : n.kind === "state" ? "context" : "plain");

function make(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// A letter with what stands below and above it: W_q, x(2).
function lettered(text, above, attributes) {
  const [whole, below] = text.split("_"), [letter, up] = whole.split("^"), element = make("text", attributes, letter);
  if (up) element.append(make("tspan", { dy: -5, "font-size": "70%" }, up), make("tspan", { dy: 5 }, "\u200b"));
  if (below) element.append(make("tspan", { dy: 4, "font-size": "70%" }, below));
  if (above) element.append(make("tspan", { dy: below ? -10 : -6, "font-size": "70%" }, `(${above})`));
  return element;
}

function draw(plan, describe) {
  const { flow, state } = plan, [width, height] = plan.xy(plan.length, plan.breadth);
  const svg = make("svg", { viewBox: `0 0 ${Math.ceil(width)} ${Math.ceil(height)}`, role: "group", "aria-label": `The flow for the word ${flow.tokens[state.token]}` });
  svg.style.width = `${Math.ceil(width)}px`;
  const stripes = make("pattern", { id: "below", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, make("line", { y2: 6, class: "stripe" }));
  svg.append(make("defs", {}, stripes));
  const lanes = make("g"), lines = make("g"), fronts = make("g");
  svg.append(lanes, lines, fronts);
  drawLanes(plan, lanes);
  for (const c of plan.columns) {
    const step = flow.order.get(c.key), group = make("g", { "data-step": step }), behind = make("g", { "data-step": step, class: "lines" });
    lines.append(behind);
    fronts.append(group);
    c.front = group;
    drawTitle(plan, c, group);
    if (c.box) drawFrame(plan, c, group);
    for (const n of c.nodes) {
      drawLines(plan, n, behind);
      drawLetters(plan, n, group);
    }
  }
  const front = new Map(plan.columns.flatMap((c) => c.nodes.map((n) => [n, c.front])));
  for (const [key, b] of plan.boxes) front.get(b.n).append(drawNumber(plan, key, b, describe));
  return svg;
}

function drawLanes(plan, group) {
  const { flow, state } = plan;
  for (const lane of plan.lanes) {
    const { w, size } = plan.laneAt.get(lane), asking = lane === state.token;
    const [x, y] = plan.xy(0, w + (plan.down ? 1 : 0)), [width, height] = plan.xy(plan.length, size - (plan.down ? 2 : 0));
    group.append(make("rect", { x, y, width, height, rx: 8, class: asking ? "lane asking" : "lane" }));
    const name = make("text", plan.down ? { x: w + size / 2, y: 18, class: "word", "text-anchor": "middle" } : { x: 10, y: w + size / 2 + 4, class: "word" });
    const most = plan.down ? Math.max(3, Math.floor(size / 7.5)) : 11;
    name.textContent = flow.tokens[lane].length > most ? flow.tokens[lane].slice(0, most - 1) + "…" : flow.tokens[lane];
    if (asking) name.classList.add("asking");
    group.append(name);
  }
  if (plan.lanes.length < flow.all) {
    const note = `and ${flow.all - plan.lanes.length} words that are read less`;
    group.append(make("text", plan.down ? { x: plan.width, y: plan.length, class: "small", "text-anchor": "end" } : { x: 10, y: plan.foot + 12, class: "small" }, note));
  }
}

// A formula, with what stands above the line: e^ω.
function formula(text, attributes) {
  const element = make("text", attributes);
  for (const part of text.split(/(\^\([^)]*\)|\^\S+|_\w)/)) {
    if (part.startsWith("^")) element.append(make("tspan", { dy: -4, "font-size": "75%" }, part.slice(1).replace(/^\((.*)\)$/, "$1")), make("tspan", { dy: 4 }, "\u200b"));
    else if (part.startsWith("_")) element.append(make("tspan", { dy: 4, "font-size": "75%" }, part.slice(1)), make("tspan", { dy: -4 }, "\u200b"));
    else element.append(part);
  }
  return element;
}

// What stands over a column: what happens there, and how it is written.
const HEADINGS = { dot: ["scores", "q · k"], scale: ["scaled", "÷ √d"], mask: ["mask", "−∞"], exp: ["exp", "e^ω"], ratio: ["weights", "e^ω ÷ Σ"], tril: ["times tril", "α · 1 or 0"], drop: ["dropout", ""],
  mix: ["context", "Σ α v"] };
function drawTitle(plan, c, group) {
  const [first] = c.nodes, sum = first.sum && c.nodes.length === 1 ? spelled(plan.flow, first) : "";
  const rows = first.rule === "ratio" && plan.flow.node(first.parents[0]).letter === "α"; // weights that are divided again
  const [title, short] = c.box ? ["learned", ""] : rows ? ["rows sum to 1", "α ÷ Σ"] : HEADINGS[first.rule] || [c.title.toLowerCase(), sum.length < 16 ? sum : ""];
  if (plan.down) {
    if (c.box || c.nodes[0].kind !== "vector") group.append(formula(short ? `${title} ${short}` : title, { x: 4, y: c.u + (c.box ? 11 : 8), class: "title small" }));
    return;
  }
  const most = Math.max(8, (c.length + CELL.gap) / 7.2), lines = [""];
  for (const word of title.split(" ")) (lines.at(-1) + word).length > most && lines.at(-1) ? lines.push(word) : (lines[lines.length - 1] += (lines.at(-1) ? " " : "") + word);
  const shown = [...lines.slice(0, short ? 2 : 3), short].filter(Boolean);
  shown.forEach((text, i) => {
    const attributes = { x: c.u + c.length / 2, y: CELL.title + 12 - (shown.length - 1 - i) * 14, class: text === short ? "formula" : "title", "text-anchor": "middle" };
    group.append(text === short ? formula(text, attributes) : make("text", attributes, text));
  });
}

function drawFrame(plan, c, group) {
  const all = c.nodes.reduce((sum, n) => sum + plan.shownRows(n) * CELL.h + 26, 0);
  const r = plan.down ? { x: 2, y: c.u - 2, width: plan.width - 4, height: c.length } : { x: c.u, y: plan.boxTop(all) - 4, width: c.length, height: all + 10 };
  group.append(make("rect", { ...r, rx: 8, class: "frame" }));
}

function drawLetters(plan, n, group) {
  const { flow, state } = plan;
  if (n.kind === "matrix" || n.kind === "total") {
    const first = [...plan.boxes.values()].find((b) => b.n === n);
    if (!first) return;
    const { x, y, width } = plan.rect(first);
    const shown = plan.shown(n), middle = n.kind === "matrix" ? x + (shown * width) / 2 : x + width / 2;
    const tail = n.shape[2] > shown || (n.kind === "matrix" && n.shape[1] > plan.shownRows(n)) ? " …" : "";
    const many = n.shape[0] > 1 && n.kind === "matrix" ? (n.letter.includes("_") ? "" : "_") + (flow.head(n, state.head) + 1) : "";
    group.append(lettered(n.letter + many + tail, "", { x: middle, y: y - 5, class: `letter ${role(n)}`, "text-anchor": "middle" }));
    return;
  }
  if (n.kind === "pair" || n.kind === "words") return;
  for (const lane of plan.lanes) {
    for (const head of plan.headsOf(n, lane)) {
      const all = plan.whole(n, lane, head);
      if (!all) continue;
      const many = n.letter === "z" && n.shape[0] > 1 ? `_${head + 1}` : "", name = n.letter.length > 7 ? n.letter.slice(0, 6) + "…" : n.letter;
      const faint = asksOnly(n) && lane !== state.token ? " faint" : "", letter = name + many;
      const place = plan.down ? { x: all.w, y: all.u + 10, "text-anchor": "middle" } : n.kind === "state" ? { x: all.u + (all.end - all.u) / 2, y: all.low - 4, "text-anchor": "middle" } : { x: all.u + CELL.label - 9, y: all.w + 5, "text-anchor": "end" };
      group.append(lettered(letter, flow.places[lane], { ...place, class: `letter ${role(n)}${faint}` }));
      if (n.kind === "vector" && n.shape[2] > 4) {
        const [x, y] = plan.xy(all.end + (plan.down ? 7 : 3), all.w + (plan.down ? 0 : 3));
        group.append(make("text", { x, y, class: `small${faint}`, "text-anchor": plan.down ? "middle" : "start" }, "…"));
      }
    }
  }
}

function drawNumber(plan, key, b, describe) {
  const { flow, state } = plan, r = plan.rect(b), n = b.n, words = n.kind === "words";
  const other = n.letter === "z" && n.shape[0] > 1 && b.at[0] !== flow.head(n, state.head);
  const value = flow.value(n, b.at), never = flow.hidden(n, b.at), lane = n.kind === "vector" ? b.at[1] : null;
  const late = n.kind === "state" && b.at[0] > state.token, faint = (asksOnly(n) && lane !== null && lane !== state.token) || late;
  const strength = never ? 0 : Math.round(Math.min(1, Math.abs(value) / n.top) * 62);
  const group = make("g", { class: `number ${role(n)}${faint ? " faint" : other ? " other" : ""}${never ? " never" : ""}`, "data-id": key, role: "button", tabindex: -1, "aria-label": describe(n, b.at) });
  group.append(make("rect", { x: r.x + 0.5, y: r.y + 0.5, width: r.width - 1, height: r.height - 1, rx: 3, class: "cell", style: `--s:${strength}%` }));
  if (value < 0 && !never && !words) group.append(make("rect", { x: r.x + 0.5, y: r.y + 0.5, width: r.width - 1, height: r.height - 1, rx: 3, fill: "url(#below)", class: "under" }));
  const size = r.width < 32 ? 7.5 : value < 0 && r.width < 50 ? 9.5 : 11, shown = never && n.rule !== "exp" ? (n.rule === "mask" ? "−∞" : "0") : given(n) ? trimmed(value) : fitted(value, r.width, size);
  const text = words ? `${n.labels[b.at[0]][b.at[1]].slice(0, 14)}  ${(100 * value).toFixed(1)} %` : shown;
  group.append(make("text", { x: r.x + r.width / 2, y: r.y + r.height / 2 + 4, "text-anchor": "middle", "font-size": size, class: "value", "data-text": text }, text));
  return group;
}

// A line from one point to another along the flow; where rows lie between, down a gutter at the lane's edge.
function line(plan, [u1, w1], [u2, w2], gutter) {
  const at = (u, w) => plan.xy(u, w).map((x) => x.toFixed(1)).join(" ");
  if (gutter !== undefined && u2 - u1 > 40) return `M${at(u1, w1)} C${at(u1 + 9, w1)} ${at(u1 + 3, gutter)} ${at(u1 + 14, gutter)} L${at(u2 - 14, gutter)} C${at(u2 - 3, gutter)} ${at(u2 - 9, w2)} ${at(u2, w2)}`;
  const middle = (u1 + u2) / 2;
  return `M${at(u1, w1)} C${at(middle, w1)} ${at(middle, w2)} ${at(u2, w2)}`;
}

function stroke(group, d, name, width = 1.6) {
  group.append(make("path", { d, class: `line ${name}`, "stroke-width": width, pathLength: 1 }));
}

function drawLines(plan, n, group) {
  const { flow, state } = plan, parents = n.parents.map(flow.node).filter((p) => p && !isMap(p));
  if (n.rule === "mix") return drawRibbons(plan, n, group);
  if (!parents.length && n.kind === "vector" && n.key !== "inputs" && n.key !== "embedded") parents.push(flow.node(`${n.key}.raw`) || flow.nodes.filter((p) => p.kind === "vector" && p.step < n.step && p.letter === n.letter).at(-1) || flow.node("inputs"));
  for (const lane of plan.lanes) {
    const to = plan.whole(n, lane);
    if (!to || (asksOnly(n) && lane !== state.token)) continue;
    for (const p of parents) {
      if (n.kind === "state" && p.letter === "a") continue;
      const asking = n.rule === "dot" && p === parents[0], from = plan.whole(p, asking ? state.token : lane);
      if (!from || p.kind === "total" || n.kind === "total") continue;
      if (p.letter === "z" && n.letter !== "z") for (const head of plan.headsOf(p, lane)) {
        const one = plan.whole(p, lane, head);
        if (one.w !== from.w || one.end !== from.end) stroke(group, line(plan, [one.end + 1, one.w], [to.u - 1, to.w]), role(n));
      }
      const { w, size } = plan.laneAt.get(lane), left = role(n) === "handed" || p.letter === "v";
      const gutter = plan.down && !asking ? (left ? w + size - 1.5 : w + 1.5) : undefined;
      const name = n.rule === "dot" ? (asking ? "asks" : "answers") : role(n) === "plain" ? role(p) : role(n);
      const near = n.rule === "dot" ? (asking ? -4 : 4) : 0;
      stroke(group, line(plan, [from.end + 1, from.w], [to.u - 1, to.w + near], gutter), name + (n.rule === "dot" && asking ? " fan" : ""), asking ? 1.3 : 1.6);
    }
    if (n.kind === "state" && n.letter.startsWith("S")) drawPast(plan, n, lane, group);
  }
}

// The state goes from word to word, in a line as wide as what the decay leaves.
function drawPast(plan, n, lane, group) {
  const i = plan.lanes.indexOf(lane), from = i > 0 && plan.whole(n, plan.lanes[i - 1]), to = plan.whole(n, lane);
  if (!from || !to || lane > plan.state.token) return;
  const decay = plan.flow.node("decay"), left = decay ? decay.values[plan.flow.head(decay, plan.state.head)][lane] : [1];
  const mean = left.reduce((a, b) => a + b, 0) / left.length, u = (from.u + from.end) / 2 - (plan.down ? 0 : 14);
  const [x1, y1] = plan.xy(u, from.high), [x2, y2] = plan.xy(u, to.low - (plan.down ? 0 : 1));
  group.append(make("path", { d: `M${x1} ${y1} L${x2} ${y2}`, class: "line context past", "stroke-width": Math.max(0.8, 9 * Math.min(1, Math.abs(mean))), pathLength: 1 }));
  if (decay && !plan.down && mean < 0.9995) group.append(make("text", { x: x1 + 10, y: (y1 + y2) / 2 + 4, class: "small" }, `× ${write(mean, 2)}`));
}

// Weights as ribbons of their width into z, stacked where they arrive: together they are all that z reads.
function drawRibbons(plan, n, group) {
  const { flow, state } = plan, [a, v] = n.parents.map(flow.node), i = flow.asks.indexOf(state.token), h = flow.head(a, state.head);
  const to = plan.whole(n, state.token);
  if (i < 0 || !to) return;
  const weights = plan.lanes.map((lane) => (flow.hidden(a, [h, i, lane]) ? 0 : a.values[h][i][lane])), all = weights.reduce((sum, x) => sum + Math.abs(x), 0) || 1;
  const most = plan.down ? 34 : 30, end = to.u - 2, column = plan.columns.find((c) => c.nodes.includes(n)), start = column.u - (column.before || 0) + (plan.down ? 8 : 10);
  let at = to.w - most / 2;
  const [ax, ay] = plan.xy(end, to.w), tip = plan.down ? `M${ax - most / 2} ${ay - 9} h${most} l${-most / 2} 9 z` : `M${ax - 9} ${ay - most / 2} v${most} l9 ${-most / 2} z`;
  plan.lanes.forEach((lane, j) => {
    const wide = (most * Math.abs(weights[j])) / all, map = plan.whole(a, lane), value = plan.whole(v, lane), { w, size } = plan.laneAt.get(lane);
    const across = plan.down ? w + size / 2 : value && v.letter === "v" ? plan.track(lane, "v") : w + size / 2 + 13, knot = [start + 6, across];
    if (map) stroke(group, line(plan, [map.end + 1, map.w], knot, plan.down ? w + 1.5 : undefined), "match thin", 1.2);
    if (value) stroke(group, line(plan, [value.end + 1, value.w], knot, plan.down ? (v.letter === "v" ? undefined : w + size - 1.5) : undefined), "handed thin", 1.4);
    if (wide) stroke(group, line(plan, [knot[0] + 7, across], [end - 9, at + wide / 2]), `ribbon handed${weights[j] < 0 ? " minus" : ""}`, Math.max(0.7, wide));
    at += wide;
    const [x, y] = plan.xy(...knot);
    group.append(make("circle", { cx: x, cy: y, r: 6.5, class: `knot${wide ? "" : " faint"}` }), make("text", { x, y: y + 4, "text-anchor": "middle", class: "small" }, "×"));
  });
  group.append(make("path", { d: tip, class: "tip" }));
}
