// Where everything stands. Words are lanes; the flow runs along them: to the right where there is room, else down.
// `u` runs along the flow, `w` across it; only `Plan.xy` knows which of them is x.
const CELL = { w: 46, h: 20, gap: 17, label: 36, title: 34, lane: 14 };
const isMap = (n) => n.kind === "matrix";
const HEADS = 4; // that are drawn beside each other before they are joined
const asksOnly = (n) => n.letter === "q" || n.letter === "z" || n.letter === "y" || n.letter === "h" || n.kind === "words";

class Plan {
  constructor(flow, state, width) {
    Object.assign(this, { flow, state, boxes: new Map(), columns: [], width });
    this.lanes = this.chosenLanes(Infinity);
    this.down = false;
    this.build();
    if (this.length > width * 1.22) {
      this.down = true;
      this.width = Math.min(width, flow.tokens.length * 190);
      this.lanes = this.chosenLanes(Math.floor(width / 50));
      this.build();
    }
  }

  // All words, or those that the asking one reads most where there is no room for all.
  chosenLanes(most) {
    const { flow, state } = this, all = flow.tokens.map((_, i) => i);
    if (all.length <= most) return all;
    const map = flow.nodes.filter((n) => n.kind === "pair" && n.letter === "α").at(-1), i = flow.asks.indexOf(state.token);
    const weight = (j) => (j === state.token ? Infinity : map && i >= 0 ? Math.abs(map.values[flow.head(map, state.head)][i][j]) : -Math.abs(state.token - j));
    return all.sort((a, b) => weight(b) - weight(a)).slice(0, most).sort((a, b) => a - b);
  }

  build() {
    this.boxes.clear();
    this.columns = this.down ? this.rows(this.grouped()) : this.grouped();
    this.across();
    let u = this.down ? 30 : 96;
    for (const column of this.columns) {
      column.u = u + (column.before || 0);
      u = column.u + column.length + (this.down ? 14 : CELL.gap);
    }
    this.length = u + 6;
    for (const column of this.columns) for (const n of column.nodes) this.settle(column, n);
  }

  // Columns of a step: what a matrix makes stands behind it; scores have a column each.
  grouped() {
    const columns = [], { flow } = this;
    for (const [key, title] of flow.stages) {
      const nodes = flow.nodes.filter((n) => n.stage === key), depth = new Map();
      for (const n of nodes) {
        const inside = n.parents.map(flow.node).filter((p) => p && p.stage === key && !isMap(p) && p !== n);
        depth.set(n, 1 + Math.max(0, ...inside.map((p) => depth.get(p) || 0)));
      }
      for (const n of nodes.filter(isMap)) {
        const owner = nodes.find((other) => other.parents.includes(n.key));
        depth.set(n, (depth.get(owner) || 1) - 0.5);
      }
      for (const n of nodes.filter((one) => one.kind === "total")) depth.set(n, depth.get(flow.node(n.parents[0])));
      for (const level of [...new Set(depth.values())].sort((a, b) => a - b)) {
        const here = nodes.filter((n) => depth.get(n) === level);
        const wide = here.filter((n) => ["pair", "total", "state"].includes(n.kind)), rest = here.filter((n) => !wide.includes(n));
        if (rest.length) columns.push({ key, title, nodes: rest, box: isMap(rest[0]) });
        for (const n of wide.filter((one) => one.kind !== "total")) {
          const total = wide.filter((one) => one.kind === "total" && one.parents[0] === n.key);
          columns.push({ key, title: n.kind === "pair" && wide.length > 1 ? n.title : title, nodes: [n, ...total], box: false });
        }
      }
    }
    const mixed = columns.find((c) => c.nodes.some((n) => n.rule === "mix"));
    if (mixed) mixed.before = this.down ? 96 : 112;
    return columns;
  }

  // Down the page a lane is one number wide: vectors of one column stand below each other, values just before they are read.
  rows(columns) {
    const rows = columns.flatMap((c) => (c.box ? [c] : c.nodes[0].kind === "vector" ? c.nodes.map((n, i) => ({ ...c, nodes: [n], before: i ? 0 : c.before })) : [c]));
    const order = { k: 0, q: 1 };
    rows.sort((a, b) => (a.key === b.key && !a.box && !b.box ? (order[a.nodes[0].letter] ?? 2) - (order[b.nodes[0].letter] ?? 2) : 0));
    const at = rows.findIndex((c) => c.nodes.some((n) => n.rule === "mix"));
    if (at > 0) {
      const value = rows[at].nodes[0].parents[1], from = rows.findIndex((c) => c.nodes[0].key === value);
      if (from > 0 && rows[from].nodes.length === 1) rows.splice(at - 1, 0, ...rows.splice(from, 1));
    }
    return rows;
  }

  shown(n) {
    const size = n.kind === "vector" ? n.shape[2] : n.kind === "state" ? n.shape[3] : n.kind === "matrix" ? n.shape[2] : 1;
    return size <= 4 ? size : 3;
  }
  // The heads of a context vector that stand side by side in the lane that asks.
  headsOf(n, lane) {
    const h = this.flow.head(n, this.state.head);
    if (n.letter !== "z" || n.kind !== "vector" || lane !== this.state.token) return [h];
    const first = Math.max(0, Math.min(h - 1, n.shape[0] - HEADS));
    return Array.from({ length: Math.min(HEADS, n.shape[0]) }, (_, i) => first + i);
  }
  shownRows(n) { const size = n.shape[n.kind === "state" ? 2 : 1]; return size <= 4 ? size : 3; }

  across() {
    const { state } = this;
    this.laneAt = new Map();
    for (const c of this.columns) c.length = this.lengthOf(c);
    if (this.down) {
      const size = this.width / this.lanes.length;
      this.lanes.forEach((lane, i) => this.laneAt.set(lane, { w: i * size, size }));
      this.breadth = this.width;
      return;
    }
    const tracks = (asking) => Math.max(2, ...this.columns.filter((c) => !c.box && c.nodes[0].kind === "vector").map((c) => c.nodes.filter((n) => asking || n.letter !== "q").length));
    const joined = Math.max(0, ...this.flow.nodes.map((n) => this.headsOf(n, state.token).length));
    const high = Math.max(0, ...this.columns.flatMap((c) => c.nodes).filter((n) => n.kind === "state").map((n) => this.shownRows(n) * CELL.h + 20));
    let w = CELL.title + 22;
    for (const lane of this.lanes) {
      const size = Math.max(tracks(lane === state.token) * 25, high, lane === state.token ? joined * 25 : 0) + CELL.lane;
      this.laneAt.set(lane, { w, size });
      w += size + 5;
    }
    this.foot = w + 4;
    const boxes = Math.max(0, ...this.columns.filter((c) => c.box).map((c) => c.nodes.reduce((sum, n) => sum + this.shownRows(n) * CELL.h + 26, 8)));
    const totals = this.columns.some((c) => c.nodes.some((n) => n.kind === "total")) ? 50 : 8;
    this.breadth = Math.max(w + totals, boxes + CELL.title + 30);
  }

  // How long a column is along the flow.
  lengthOf(c) {
    const long = (n) => {
      if (this.down) {
        if (n.kind === "vector") return this.headsOf(n, this.state.token).length * (18 + this.shown(n) * 18 + (n.shape[2] > 4 ? 8 : 0));
        if (n.kind === "state") return 18 + this.shownRows(n) * 18;
        if (n.kind === "words") return 20 + n.values[0].length * 22;
        return n.kind === "total" ? 0 : 33;
      }
      if (n.kind === "vector") return CELL.label + this.shown(n) * CELL.w + (n.shape[2] > 4 ? 12 : 0);
      if (n.kind === "words") return 150;
      return (n.kind === "total" ? 1 : this.shown(n)) * CELL.w;
    };
    if (!c.box) return Math.max(...c.nodes.map(long)) + (this.down && c.nodes.some((n) => n.kind === "total") ? 34 : 0);
    if (this.down) return Math.max(...c.nodes.map((n) => this.shownRows(n) * 18)) + 34;
    return Math.max(...c.nodes.map((n) => this.shown(n) * CELL.w)) + 18;
  }

  // The rectangle of every number of a node, by its id, and of its letter.
  settle(c, n) {
    const { flow, state } = this, h = flow.head(n, state.head);
    if (n.kind === "matrix") return this.settleMatrix(c, n, h);
    if (n.kind === "total") {
      const i = flow.asks.indexOf(state.token);
      if (this.down) this.box(n, [h, i], c.u + c.length - 20, this.width / 2 - 34, 18, 68);
      else this.box(n, [h, i], c.u, this.foot + 16, CELL.w, CELL.h);
      return;
    }
    for (const lane of this.lanes) {
      const { w, size } = this.laneAt.get(lane);
      if (n.kind === "pair") {
        const i = flow.asks.indexOf(state.token);
        if (this.down) this.box(n, [h, i, lane], c.u + 13, w + size / 2 - Math.min(32, size / 2 - 2), 18, Math.min(64, size - 4));
        else this.box(n, [h, i, lane], c.u, this.track(lane, "k") - CELL.h / 2, CELL.w, CELL.h);
      } else if (n.kind === "state") {
        const columns = this.shown(n), wide = this.down ? Math.min((size - 4) / columns, 60) : CELL.w, high = this.down ? 18 : CELL.h;
        const middle = w + size / 2 - (this.down ? (wide * columns) / 2 : (this.shownRows(n) * high - 14) / 2);
        for (let r = 0; r < this.shownRows(n); r++) for (let k = 0; k < columns; k++) {
          if (this.down) this.box(n, [lane, h, r, k], c.u + 16 + r * high, middle + k * wide, high, wide);
          else this.box(n, [lane, h, r, k], c.u + k * wide, middle + r * high, wide, high);
        }
      } else if (n.kind === "words") {
        if (lane === state.token) n.values[lane].forEach((_, r) => {
          if (this.down) this.box(n, [lane, r], c.u + 18 + r * 22, Math.min(Math.max(0, w + size / 2 - 80), this.width - 160), 20, 160);
          else this.box(n, [lane, r], c.u, w + size / 2 + (r - n.values[lane].length / 2) * 24, 150, 20);
        });
      } else {
        if (n.letter === "q" && lane !== state.token) continue;
        const wide = this.down ? Math.min(size - 4, 64) : CELL.w, heads = this.headsOf(n, lane), long = 18 + this.shown(n) * 18 + (n.shape[2] > 4 ? 8 : 0);
        const middle = this.down ? w + size / 2 - wide / 2 : this.trackOf(c, n, lane) - CELL.h / 2;
        heads.forEach((head, i) => {
          for (let d = 0; d < this.shown(n); d++) {
            if (this.down) this.box(n, [head, lane, d], c.u + 16 + i * long + d * 18, middle, 18, wide);
            else this.box(n, [head, lane, d], c.u + CELL.label + d * wide, middle + (i - (heads.length - 1) / 2) * 25, wide, CELL.h);
          }
        });
      }
    }
  }

  settleMatrix(c, n, h) {
    const before = c.nodes.slice(0, c.nodes.indexOf(n)), columns = this.shown(n);
    const wide = this.down ? Math.min(54, (this.width - 20) / c.nodes.reduce((sum, one) => sum + this.shown(one) + 0.4, 0)) : CELL.w;
    const all = c.nodes.reduce((sum, one) => sum + this.shownRows(one) * CELL.h + 26, 0);
    const start = this.down ? 10 + before.reduce((sum, one) => sum + (this.shown(one) + 0.4) * wide, 0) + Math.max(0, (this.width - 20 - c.nodes.reduce((s, one) => s + (this.shown(one) + 0.4) * wide, 0)) / 2)
      : this.boxTop(all) + before.reduce((sum, one) => sum + this.shownRows(one) * CELL.h + 26, 22);
    for (let r = 0; r < this.shownRows(n); r++) for (let k = 0; k < columns; k++) {
      if (this.down) this.box(n, [h, r, k], c.u + 24 + r * 18, start + k * wide, 18, wide);
      else this.box(n, [h, r, k], c.u + 9 + k * wide, start + r * CELL.h, wide, CELL.h);
    }
  }
  boxTop(all) { return Math.max(CELL.title + 14, CELL.title + 22 + (this.breadth - CELL.title - 22 - all - 20) / 2); }

  // The middle of a word's track: keys and scores above, values below, a query above both.
  track(lane, letter) {
    const c = this.columns.find((one) => !one.box && one.nodes.some((n) => n.kind === "vector" && n.letter === letter) && one.nodes.length > 1);
    if (c) return this.trackOf(c, c.nodes.findLast((n) => n.letter === letter), lane);
    const { w, size } = this.laneAt.get(lane);
    return w + size / 2 + (letter === "v" ? 13 : -13);
  }
  trackOf(c, n, lane) {
    const { w, size } = this.laneAt.get(lane), here = c.nodes.filter((one) => one.letter !== "q" || lane === this.state.token);
    return w + size / 2 + (here.indexOf(n) - (here.length - 1) / 2) * 25;
  }

  box(n, at, u, w, du, dw) { this.boxes.set(id(n, at), { n, at, u, w, du, dw }); }
  xy(u, w) { return this.down ? [w, u] : [u, w]; }
  rect({ u, w, du, dw }) { const [x, y] = this.xy(u, w), [width, height] = this.xy(du, dw); return { x, y, width, height }; }
  // The whole of a node in a lane: where lines come in and go out.
  whole(n, lane, head = this.flow.head(n, this.state.head)) {
    const mine = [...this.boxes.values()].filter((b) => b.n === n && (n.kind !== "vector" || b.at[0] === head) && (n.kind === "vector" || n.kind === "words" ? b.at[n.kind === "words" ? 0 : 1] === lane : n.kind === "pair" ? b.at[2] === lane : n.kind === "state" ? b.at[0] === lane : true));
    if (!mine.length) return null;
    const u = Math.min(...mine.map((b) => b.u)), w = Math.min(...mine.map((b) => b.w));
    const end = Math.max(...mine.map((b) => b.u + b.du)), side = Math.max(...mine.map((b) => b.w + b.dw));
    const label = n.kind === "vector" ? (this.down ? 14 : CELL.label - 4) : n.kind === "state" && this.down ? 14 : 0;
    return { u: u - label, end, w: (w + side) / 2, low: w, high: side };
  }
}
