// Drawing on a canvas of given size: text that fits, text that is turned, tokens in characters that can be seen.

export const FONT = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";

/** A token in characters that can be seen: spaces as ·, line breaks as \n, what is invisible by its number. */
export function printable(token) {
  return String(token).replace(/ /g, "·").replace(/\n/g, "\\n").replace(/\t/g, "\\t")
    .replace(/[\p{C}\p{Z}]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
}

/** Give a canvas a size in CSS pixels, sharp on dense screens, and wipe it. One may ask for a `ratio` of its own. */
export function prepare(canvas, width, height) {
  const ratio = canvas.ratio ?? (window.devicePixelRatio || 1);
  const size = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  [canvas.style.width, canvas.style.height] = [`${width}px`, `${height}px`];
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  Object.assign(pen, { imageSmoothingEnabled: false, globalAlpha: 1, lineWidth: 1 });
  return pen;
}

/** A text, cut to a width. */
export function fit(pen, text, width) {
  if (pen.measureText(text).width <= width) return text;
  const cut = [...text];
  while (cut.length && pen.measureText(cut.join("") + "…").width > width) cut.pop();
  return cut.join("") + "…";
}

/** Text along another direction. */
export function turned(pen, text, x, y, angle) {
  pen.save();
  pen.translate(x, y);
  pen.rotate(angle);
  pen.fillText(text, 0, 0);
  pen.restore();
}

/** A line through points. */
export function line(pen, points) {
  pen.beginPath();
  points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
}
