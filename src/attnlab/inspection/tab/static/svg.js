// A canvas that writes SVG: what draws on a canvas draws on this one, and the picture has lines and letters instead of pixels.

const NAMESPACE = new DOMParser().parseFromString("<svg></svg>", "text/html").querySelector("svg").namespaceURI;
const MOST_CELLS = 2 ** 14; // of a picture that becomes rectangles; a larger one stays a picture inside the SVG
const escaped = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`).replace(/[^\P{C}\n\t]/gu, "");
const rounded = (x) => String(+x.toFixed(2));

/** Stands for a canvas where something is drawn; `markup` is what has been drawn. */
export class SvgCanvas {
  constructor() {
    this.style = {};
    this.ratio = 1;
    this.pen = new SvgPen();
  }

  getContext() {
    return this.pen;
  }

  get markup() {
    return this.pen.parts.join("");
  }
}

/** An SVG file around marks; wide and high in pixels. */
export const svgFile = (markup, width, height) =>
  `<svg xmlns="${NAMESPACE}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">${markup}</svg>\n`;

class SvgPen {
  constructor() {
    this.parts = [];
    this.path = "";
    this.saved = [];
    this.ruler = document.createElement("canvas").getContext("2d");
    Object.assign(this, { turn: "", dash: [], fillStyle: "#000000", strokeStyle: "#000000", lineWidth: 1, globalAlpha: 1,
      font: "10px sans-serif", textAlign: "left", textBaseline: "alphabetic" });
  }

  put(name, properties, content = "") {
    const all = this.turn ? { ...properties, transform: this.turn } : properties;
    if (this.globalAlpha < 1) all.opacity = rounded(this.globalAlpha);
    const text = Object.entries(all).map(([key, value]) => ` ${key}="${typeof value === "number" ? rounded(value) : escaped(value)}"`).join("");
    this.parts.push(`<${name}${text}>${content}</${name}>`);
  }

  setTransform() { this.turn = ""; }
  clearRect() { this.parts = []; }
  save() { this.saved.push(this.turn); }
  restore() { this.turn = this.saved.pop(); }
  translate(x, y) { this.turn += ` translate(${rounded(x)} ${rounded(y)})`; }
  rotate(angle) { this.turn += ` rotate(${rounded((angle * 180) / Math.PI)})`; }
  setLineDash(dash) { this.dash = dash; }
  beginPath() { this.path = ""; }
  moveTo(x, y) { this.path += `M${rounded(x)} ${rounded(y)}`; }
  lineTo(x, y) { this.path += `${this.path ? "L" : "M"}${rounded(x)} ${rounded(y)}`; }
  fillRect(x, y, width, height) { this.put("rect", { x, y, width, height, fill: this.fillStyle }); }
  fill() { this.put("path", { d: `${this.path}Z`, fill: this.fillStyle }); }
  stroke() { this.put("path", { d: this.path, fill: "none", ...this.outline() }); }
  strokeRect(x, y, width, height) { this.put("rect", { x, y, width, height, fill: "none", ...this.outline() }); }

  arc(x, y, r) {
    this.path += `M${rounded(x - r)} ${rounded(y)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`; // whole circles alone are drawn
  }

  outline() {
    const look = { stroke: this.strokeStyle, "stroke-width": this.lineWidth };
    return this.dash.length ? { ...look, "stroke-dasharray": this.dash.join(" ") } : look;
  }

  measureText(text) {
    this.ruler.font = this.font;
    return this.ruler.measureText(text);
  }

  fillText(text, x, y) {
    const [, size, family] = this.font.match(/([\d.]+)px (.*)/);
    const anchor = { left: "start", center: "middle", right: "end" }[this.textAlign];
    const lower = this.textBaseline === "middle" ? 0.35 * size : 0;
    this.put("text", { x, y: y + lower, fill: this.fillStyle, "font-size": size, "font-family": family, "text-anchor": anchor,
      "xml:space": "preserve" }, escaped(text));
  }

  /** A picture, each of whose pixels is a cell: from a part of it, if four numbers say which, to a place. */
  drawImage(picture, ...numbers) {
    const [sx, sy, sw, sh] = numbers.length === 8 ? numbers : [0, 0, picture.width, picture.height];
    const [x, y, width, height] = numbers.slice(-4);
    const [left, top] = [Math.floor(sx + 1e-6), Math.floor(sy + 1e-6)];
    const [right, bottom] = [Math.min(picture.width, Math.ceil(sx + sw - 1e-6)), Math.min(picture.height, Math.ceil(sy + sh - 1e-6))];
    const [columns, rows] = [right - left, bottom - top];
    const [dx, dy] = [width / sw, height / sh];
    const edge = (at, from, step, start, most) => start + Math.max(0, Math.min(most, (at - from) * step));
    if (columns * rows > MOST_CELLS) {
      const part = Object.assign(document.createElement("canvas"), { width: Math.round(sw), height: Math.round(sh) });
      part.getContext("2d").drawImage(picture, sx, sy, sw, sh, 0, 0, part.width, part.height);
      this.put("image", { x, y, width, height, preserveAspectRatio: "none", style: "image-rendering: pixelated", href: part.toDataURL() });
      return;
    }
    const { data } = picture.getContext("2d").getImageData(left, top, columns, rows);
    const colour = (n) => `#${[0, 1, 2].map((c) => data[4 * n + c].toString(16).padStart(2, "0")).join("")}`;
    for (let i = 0; i < rows; i++) {
      for (let j = 0, end; j < columns; j = end) { // cells of one colour beside each other are one rectangle
        const fill = colour(i * columns + j);
        for (end = j + 1; end < columns && colour(i * columns + end) === fill;) end++;
        const [x0, x1] = [j, end].map((at) => edge(left + at, sx, dx, x, width));
        const [y0, y1] = [i, i + 1].map((at) => edge(top + at, sy, dy, y, height));
        this.put("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, fill, "shape-rendering": "crispEdges" });
      }
    }
  }
}
