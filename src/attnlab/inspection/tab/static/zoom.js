// Which part of a map is in sight. Panels of one zoom move together; each is drawn at most once a frame.

const MOST_CELL = 48; // pixels of a cell beyond which nothing is gained
const zooms = new Map(); // from a name to a zoom: it outlives the panel, which is built anew for another row or step

/** The zoom of a name, for maps of so many rows and columns: `factor` 1 shows all of a map, `row` and `column` begin it. */
export function zoomOf(name, map) {
  const size = `${map.rows} x ${map.columns}`;
  const earlier = zooms.get(name);
  if (earlier?.size === size) return earlier;
  const fresh = { size, rows: map.rows, columns: map.columns, factor: 1, row: 0, column: 0, draws: new Map(), frame: null };
  zooms.set(name, fresh);
  return fresh;
}

/** Draw `canvas` by `draw` whenever the zoom has changed, as long as it is on the page. */
export function follow(zoom, canvas, draw) {
  for (const old of zoom.draws.keys()) if (!old.isConnected) zoom.draws.delete(old);
  zoom.draws.set(canvas, draw);
}

function changed(zoom) {
  zoom.frame ??= requestAnimationFrame(() => {
    zoom.frame = null;
    for (const [canvas, draw] of zoom.draws) if (canvas.isConnected) draw();
  });
}

/** Move the first cell in sight by so many cells, within the map. */
export function pan(zoom, rows, columns) {
  const within = (at, n) => Math.max(0, Math.min(n - n / zoom.factor, at));
  zoom.row = within(zoom.row + rows, zoom.rows);
  zoom.column = within(zoom.column + columns, zoom.columns);
  changed(zoom);
}

/** Zoom by a factor; what is at (row, column), in cells of the map, stays where it is. `fit` are the pixels of a cell of the whole. */
export function zoomBy(zoom, by, fit, row = zoom.row + zoom.rows / zoom.factor / 2, column = zoom.column + zoom.columns / zoom.factor / 2) {
  const before = zoom.factor;
  zoom.factor = Math.max(1, Math.min(Math.max(1, MOST_CELL / fit), before * by));
  const share = before / zoom.factor;
  pan(zoom, (row - zoom.row) * (1 - share), (column - zoom.column) * (1 - share));
}

/** Bring a cell into sight. */
export function reveal(zoom, row, column) {
  const into = (at, first, n) => (at < first ? at - first : Math.max(0, at + 1 - first - n / zoom.factor));
  const [down, right] = [into(row, zoom.row, zoom.rows), column === null ? 0 : into(column, zoom.column, zoom.columns)];
  if (down || right) pan(zoom, down, right);
}

/** Wheel with ctrl, pinch, double click and dragging on an element. `cellAt` gives (row, column) as fractions for an event;
 *  `pixels()` those of a cell as drawn, `fit` those of a cell of the whole map. Gives back whether the last press was a drag. */
export function listen(element, zoom, { cellAt, pixels, fit }) {
  const fingers = new Map();
  let dragged = false;
  let apart = null;
  element.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) {
      zoomBy(zoom, Math.exp(-event.deltaY / 300), fit, ...cellAt(event));
    } else {
      const [row, column] = [zoom.row, zoom.column];
      pan(zoom, event.deltaY / pixels(), event.deltaX / pixels());
      if (row === zoom.row && column === zoom.column) return; // at the end of the map the page moves
    }
    event.preventDefault();
  }, { passive: false });
  element.addEventListener("dblclick", (event) => zoomBy(zoom, event.shiftKey ? 0.5 : 2, fit, ...cellAt(event)));
  element.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, event);
    dragged = false;
    apart = null;
  });
  element.addEventListener("pointermove", (event) => {
    const last = fingers.get(event.pointerId);
    if (!last) return;
    const [dx, dy] = [event.clientX - last.clientX, event.clientY - last.clientY];
    if (fingers.size === 1 && !dragged && Math.hypot(dx, dy) < 4) return;
    dragged = true;
    element.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, event);
    pan(zoom, -dy / pixels() / fingers.size, -dx / pixels() / fingers.size);
    if (fingers.size !== 2) return;
    const [a, b] = [...fingers.values()];
    const now = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
    if (apart) zoomBy(zoom, now / apart, fit, ...cellAt({ clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 }));
    apart = now;
  });
  const release = (event) => fingers.delete(event.pointerId);
  for (const end of ["pointerup", "pointercancel", "pointerleave"]) element.addEventListener(end, release);
  return () => dragged;
}
