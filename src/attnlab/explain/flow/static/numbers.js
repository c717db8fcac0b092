// Below the first a number counts as 0; from the second on four decimals show it. As in numbers.py.
const [NOISE, SMALLEST] = [1e-7, 5e-5];

// How numbers are written, and names of numbers as the chapter writes them, counting from 1.
const write = (x, digits = 4) => {
  if (Math.abs(x) > 1e37) return x > 0 ? "∞" : "−∞";
  const size = Math.abs(x);
  if (size >= NOISE && size < SMALLEST) return x.toExponential(digits > 2 ? 1 : 0).replaceAll("-", "−");
  return (size >= 1000 ? x.toPrecision(3) : (size < NOISE ? 0 : x).toFixed(digits)).replace("-", "−");
};

// What the layer is given is written as it is: 0.43.
const given = (n) => n.key === "inputs";
const trimmed = (x) => write(x).replace(/(\.\d\d)0+$/, "$1");

// As many decimals as a cell has room for.
function fitted(x, width, size) {
  for (const digits of [4, 3, 2, 1]) {
    const text = write(x, digits);
    if (text.length * size * 0.56 <= width - 2 || digits === 1) return text;
  }
}

class Flow {
  constructor(data) {
    Object.assign(this, data);
    this.byKey = new Map(this.nodes.map((n) => [n.key, n]));
    this.node = (key) => this.byKey.get(key);
    this.order = new Map(this.stages.map(([key], i) => [key, i]));
    for (const n of this.nodes) n.step = this.order.get(n.stage);
  }
  value(n, at) { return pick(n.values, at); }
  hidden(n, at) { return Boolean(n.hidden && pick(n.hidden, at)); }
  // The head of fewer that this one reads.
  shared(few, head, many) { return Math.floor(head / (many.shape[0] / few.shape[0])); }
  head(n, h) { return n.shape[0] === this.heads ? h : Math.min(n.shape[0] - 1, Math.floor(h * n.shape[0] / this.heads)); }
  part(n, at) {
    const value = this.value(n, at);
    const text = given(n) ? trimmed(value) : write(value);
    return { text: value < 0 ? `(${text})` : text, value, id: id(n, at) };
  }
  // "q" and the number of its word, as in q(2); for a pair both.
  called(n, at) {
    if (n.kind === "pair") return `${n.letter || n.title}(${this.places[this.asks[at[1]]]},${this.places[at[2]]})`;
    if (n.kind === "total") return `${n.letter}(${this.places[this.asks[at[1]]]})`;
    if (n.kind === "state") return `${n.letter}(${this.places[at[0]]})`;
    if (n.kind === "matrix") return n.letter;
    return `${n.letter}(${this.places[at[1]]})`;
  }
  // Which number of it, in words.
  which(n, at) {
    if (n.kind === "vector") return n.shape[2] > 1 ? `, number ${at[2] + 1}` : "";
    if (n.kind === "matrix") return `, row ${at[1] + 1}, column ${at[2] + 1}`;
    if (n.kind === "state") return `, row ${at[2] + 1}, column ${at[3] + 1}`;
    return "";
  }
}

const id = (n, at) => `${n.key}:${at.join(",")}`;
