// What a number is made of: for each rule, the terms of its sum with the numbers of the page, as `flow_rules.py` states them.
const RULES = {
  linear: (f, n, [h, t, d]) => {
    const [x, w, b] = n.parents.map(f.node), terms = [];
    for (let r = 0; r < w.values[h].length; r++) {
      const at = [Math.floor(r / x.shape[2]), t, r % x.shape[2]];
      terms.push([f.part(x, at), f.part(w, [h, r, d])]);
    }
    if (b) terms.push([f.part(b, [h, 0, d])]);
    return { terms, all: w.shape[1] + (b ? 1 : 0), text: `${f.called(x, [0, t])} times a column of ${w.letter}${b ? ", plus " + b.letter : ""}` };
  },
  dot: (f, n, [h, i, j]) => {
    const [q, k] = n.parents.map(f.node), g = f.shared(k, h, n), t = f.asks[i];
    const terms = q.values[h][t].map((_, d) => [f.part(q, [h, t, d]), f.part(k, [g, j, d])]);
    return { terms, all: q.shape[2], text: `the dot product of ${f.called(q, [h, t])} and ${f.called(k, [g, j])}` };
  },
  scale: (f, n, at) => ({ terms: [[f.part(f.node(n.parents[0]), at), { text: write(n.factor[0]) }]], all: 1, text: root(n.factor[0]) }),
  mask: (f, n, at) => f.hidden(n, at) ? { text: "this word may not be read: −∞, so that its weight is 0" }
    : { terms: [[f.part(f.node(n.parents[0]), at)]], all: 1, text: "this word may be read, so the score stays" },
  exp: (f, n, at) => f.hidden(n, at) ? { text: "e to the −∞ is 0" } : { wrap: "e^", terms: [[f.part(f.node(n.parents[0]), at)]], all: 1, text: "the exponential of the score" },
  total: (f, n, [h, i]) => {
    const e = f.node(n.parents[0]), terms = e.values[h][i].map((_, j) => [f.part(e, [h, i, j])]);
    if (n.factor.length) terms.push([{ text: write(n.factor[h]) }]);
    return { terms, all: f.all + (n.factor.length ? 1 : 0), text: n.factor.length ? "their sum, and one for reading nothing" : "their sum" };
  },
  ratio: (f, n, [h, i, j]) => {
    const [e, s] = n.parents.map(f.node);
    return { terms: [[f.part(e, [h, i, j]), f.part(s, [h, i])]], sign: " ÷ ", all: 1, text: "its share of the sum: all weights of a word add up to 1" };
  },
  drop: (f, n, at) => {
    const p = f.node(n.parents[0]), gone = f.value(n, at) === 0 && f.value(p, at) !== 0;
    return { terms: [[f.part(p, at), { text: gone ? "0" : write(1 - n.factor[0]) }]], sign: gone ? " × " : " ÷ ", all: 1,
      text: gone ? "dropped in this draw" : "kept in this draw, and larger, so that the mean over draws stays" };
  },
  mix: (f, n, [h, t, d]) => {
    const [a, v] = n.parents.map(f.node), i = f.asks.indexOf(t), g = f.shared(v, h, a);
    if (i < 0) return null;
    const terms = a.values[h][i].map((_, j) => [f.part(a, [h, i, j]), f.part(v, [g, j, d])]);
    return { terms, all: f.all, text: "each value by its weight, added up" };
  },
  join: (f, n, [h, t, d]) => {
    const x = f.node(n.parents[0]), same = n.shape[0] === x.shape[0];
    if (same && d >= x.shape[2]) return { text: "a 1, so that the state also counts what was written" };
    const at = same ? [h, t, d] : [Math.floor(d / x.shape[2]), t, d % x.shape[2]];
    return { terms: [[f.part(x, at)]], all: 1, text: same ? "as it is" : `number ${at[2] + 1} of head ${at[0] + 1}` };
  },
  outer: (f, n, [t, h, r, c]) => {
    const [k, v] = n.parents.map(f.node);
    return { terms: [[f.part(k, [h, t, r]), f.part(v, [h, t, c])]], all: 1, text: "a number of the key times one of the value" };
  },
  correct: (f, n, [h, t, c]) => {
    const named = n.parents.map(f.node), [v] = named, k = named.find((p) => p.letter === "k"), beta = named.find((p) => p.letter === "β");
    const before = beta ? `${write(f.value(beta, [h, t, 0]))} · ` : "", state = f.states()[0], decay = f.node("decay");
    const part = f.part(v, [h, t, c]);
    if (!k || !t) return { before, terms: [[part]], all: 1, text: k ? "the state is still empty" : "as much of the value as is written" };
    const held = k.values[h][t].reduce((sum, x, r) => sum + x * decay.values[h][t][r] * state.values[t - 1][h][r][c], 0);
    return { before: `${before}(`, after: ")", terms: [[part], [{ text: write(-held) }]], all: 2, text: `the value, less what the state already answers to this key (${write(held)})` };
  },
  keep: (f, n, [t, h, r, c]) => {
    const decay = f.node(n.parents[0]), a = f.node(n.parents[1]), terms = [[f.part(a, [t, h, r, c])]];
    if (t) terms.unshift([f.part(decay, [h, t, r]), f.part(n, [t - 1, h, r, c])]);
    return { terms, all: terms.length, text: t ? "what is left of the state before, plus what this word writes" : "the first that is written" };
  },
  read: (f, n, [h, t, c]) => {
    const [q, s] = n.parents.map(f.node), terms = s.values[t][h].map((_, r) => [f.part(q, [h, t, r]), f.part(s, [t, h, r, c])]);
    const scaled = n.factor[0] !== 1;
    return { before: scaled ? `${write(n.factor[0])} · (` : "", after: scaled ? ")" : "", terms, all: q.shape[2], factor: n.factor[0], text: `${f.called(q, [h, t])} reads a column of the state` };
  },
  share: (f, n, [h, t, c]) => {
    const [q, s] = n.parents.map(f.node), last = s.shape[3] - 1;
    const dot = (column) => q.values[h][t].reduce((sum, x, r) => sum + x * s.values[t][h][r][column], 0);
    if (s.values[t][h][0].length <= last || q.shape[2] > q.values[h][t].length) return { text: "q reads the state, divided by what it reads of its last column" };
    return { terms: [[{ text: write(dot(c)) }, { text: write(dot(last)) }]], sign: " ÷ ", all: 1, text: "what q reads of this column, divided by what it reads of the last, which counts" };
  },
  op: (f, n, at) => {
    const parts = n.operands.map((x) => ({ text: write(pick(x, at)) })), sign = n.operation;
    const between = "+-×÷^".includes(sign);
    if (between && parts.length === 2) return { terms: [parts], sign: ` ${sign} `, all: 1, text: "" };
    return { text: `${sign}(${parts.map((p) => p.text).join(", ")})`, formula: true };
  },
};

const pick = (x, at) => at.reduce((rest, i) => rest?.[i], x);

function root(scale) {
  const square = 1 / (scale * scale), n = Math.round(square);
  return Math.abs(square - n) < 1e-3 * n ? `divided by √${n}, the root of the key's length` : "times a fixed number";
}

// The sum behind one number, in words and numbers: {formula, parts: ids of the numbers in it, text}.
function madeOf(f, n, at) {
  const rule = RULES[n.rule], given = rule && rule(f, n, at);
  if (!given) return { formula: "", parts: [], text: n.rule === "given" && (n.kind === "matrix" || n.key === "inputs") ? (n.kind === "matrix" ? "learned: training changes it" : "given") : n.title };
  if (!given.terms) return { formula: given.formula ? given.text : "", parts: [], text: given.formula ? "" : given.text };
  const most = 8, shown = given.terms.slice(0, most), sign = given.sign || " · ";
  let formula = shown.map((term) => term.map((p) => p.text).join(sign)).join(" + ").replaceAll("+ −", "− ");
  if (given.all > shown.length) {
    const product = (term) => term.reduce((x, p) => x * p.value, 1);
    const rest = f.value(n, at) / (given.factor || 1) - shown.reduce((sum, term) => sum + product(term), 0);
    formula += ` + ${given.all - shown.length} more (${write(rest)})`;
  }
  const parts = given.terms.flat().map((p) => p.id).filter(Boolean);
  return { formula: `${given.before || ""}${given.wrap || ""}${formula}${given.after || ""}`, parts, text: given.text };
}
