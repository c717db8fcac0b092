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
    if (f.hidden(n, [h, i, j])) return { text: "this word comes later: nothing of it is read" };
    return { terms: [[f.part(e, [h, i, j]), f.part(s, [h, i])]], sign: " ÷ ", all: 1, text: "its share of the sum: all weights of a word add up to 1" };
  },
  tril: (f, n, at) => f.hidden(n, at) ? { terms: [[f.part(f.node(n.parents[0]), at), { text: "0" }]], all: 1, text: "this word comes later" }
    : { terms: [[f.part(f.node(n.parents[0]), at), { text: "1" }]], all: 1, text: "this word may be read" },
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
  turn: (f, n, [h, t, d]) => {
    const [x, angle] = n.parents.map(f.node), p = Math.floor(d / 2), even = d % 2 === 0;
    if (p >= angle.shape[2]) return { terms: [[f.part(x, [h, t, d])]], all: 1, text: "this pair does not turn" };
    const [cos, sin] = [Math.cos, Math.sin].map((of) => ({ text: write(of(f.value(angle, [h, t, p]))), value: of(f.value(angle, [h, t, p])) }));
    const terms = [[f.part(x, [h, t, 2 * p]), even ? cos : sin], [f.part(x, [h, t, 2 * p + 1]), even ? sin : cos]];
    terms[1].minus = even;
    return { terms, all: 2, text: `a pair of numbers, turned by ${write(f.value(angle, [h, t, p]))}: the cosine of that is ${cos.text}, the sine ${sin.text}` };
  },
  sum: (f, n, at) => {
    const [axes, wrap, sum] = n.sum, here = {}, terms = [];
    [...axes].forEach((letter, i) => (here[letter] = at[i]));
    if (n.kind === "pair") here.i = f.asks[at[1]];
    if (f.hidden(n, at)) return { text: "this word comes later: nothing of it is read" };
    let all = 0;
    for (const [factors, minus] of sum) {
      const free = new Map();
      for (const [key, letters] of factors) [...letters].forEach((c, i) => c in here || "0$".includes(c) || free.set(c, Math.min(free.get(c) ?? Infinity, f.node(key).shape[i])));
      let places = [here];
      for (const [letter, size] of free) places = places.flatMap((place) => Array.from({ length: size }, (_, i) => ({ ...place, [letter]: i })));
      for (const place of places) {
        const parts = factors.map((factor) => piece(f, factor, place));
        if (parts.includes(null)) continue; // nothing stands before the first word
        all++;
        if (parts.every((p) => p.value !== undefined)) terms.push(Object.assign(parts, { minus }));
      }
    }
    return { terms, all, function: wrap, text: terms.length ? "" : "nothing is there yet" };
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

// One factor of a product: a number of a node at this place, or of the token before; null where there is nothing yet.
function piece(f, [key, letters, before, divides, number], place) {
  if (number !== null) return { text: plain(number), value: number, divides };
  const n = f.node(key);
  const index = [...letters].map((c, i) => (c === "0" ? 0 : c === "$" ? n.shape[i] - 1 : c === "t" ? place.t - (before ? 1 : 0) : c === "i" && n.kind === "pair" ? f.asks.indexOf(place.i) : place[c]));
  if (before && place.t === 0) {
    if (f.places[0] > 1) return {}; // of a word that is not drawn
    if (typeof n.start === "string") return { ...f.part(f.node(n.start), index.filter((_, i) => letters[i] !== "t")), divides };
    return n.start === undefined ? null : { text: write(n.start), value: n.start, divides };
  }
  return pick(n.values, index) === undefined ? {} : { ...f.part(n, index), divides };
}
const plain = (x) => (Number.isInteger(x) || Math.abs(x) < 1e-3 ? String(x) : trimmed(x));

// How a rule is written in letters: a S + A.
function spelled(f, n) {
  const [, wrap, sum] = n.sum, called = ([key, , , divides, number]) => (divides ? "÷ " : "") + (number === null ? f.node(key).letter : plain(number));
  const terms = sum.map(([factors, minus], i) => (minus ? "− " : i ? "+ " : "") + factors.map(called).join(" "));
  return wrapped(wrap, wrap === "max" ? terms.join(", ").replaceAll("+ ", "") : terms.join(" "));
}
const wrapped = (name, text) => (!name ? text : name === "exp" ? `e^(${text})` : name === "sqrt" ? `√(${text})` : name === "abs" ? `|${text}|` : `${name}(${text})`);

// A factor with as many decimals as its product needs for four, however large the others are, or small what divides.
function precise(p, product) {
  const digits = Math.min(9, 4 + Math.ceil(Math.log10(Math.abs(product / p.value) / 4)));
  return digits > 4 && !Number.isInteger(p.value) ? p.text.replace(/[\d.]+/, write(Math.abs(p.value), digits)) : p.text;
}

// The sum behind one number, in words and numbers: {formula, parts: ids of the numbers in it, text}.
function madeOf(f, n, at) {
  const rule = RULES[n.rule], given = rule && rule(f, n, at);
  if (!given) return { formula: "", parts: [], text: n.rule === "given" && (n.kind === "matrix" || n.key === "inputs") ? (n.kind === "matrix" ? "learned: training changes it" : "given") : n.title };
  if (!given.terms) return { formula: given.formula ? given.text : "", parts: [], text: given.formula ? "" : given.text };
  const most = 8, shown = given.terms.slice(0, most), sign = given.sign || " · ";
  const product = (term) => term.reduce((x, p) => (p.divides ? x / p.value : x * p.value), term.minus ? -1 : 1);
  const alone = given.terms.length === 1 && given.terms[0].length === 1 && !given.terms[0].minus;
  const factors = (term) => alone ? term[0].text.replace(/^\((.*)\)$/, "$1") : term.map((p, i) => (i ? (p.divides ? " ÷ " : sign) : p.divides ? "1 ÷ " : "") + precise(p, product(term))).join("") || "1";
  const between = given.function === "max" ? ", " : " + ";
  let formula = shown.map((term, i) => (i ? (term.minus && between !== ", " ? " − " : between) : "") + (term.minus && (!i || between === ", ") ? "−" : "") + factors(term)).join("");
  if (given.all > shown.length) {
    const rest = f.value(n, at) - shown.reduce((sum, term) => sum + product(term), 0);
    formula += `${between}${given.all - shown.length} more${given.function ? "" : ` (${write(rest)})`}`;
  }
  const parts = given.terms.flat().map((p) => p.id).filter(Boolean);
  return { formula: wrapped(given.function, `${given.wrap || ""}${formula}`), parts, text: given.text };
}
