// One labelled map that answers: pointing names query, key and value; a click or a key chooses the query's row; wheel with ctrl,
// pinch, double click and keys zoom; dragging moves what is in sight.

import { short } from "./colours.js";
import { el } from "./dom.js";
import { drawMap, marginsOf, markCell } from "./map_view.js";
import { printable } from "./pen.js";
import { follow, listen, reveal, zoomBy, zoomOf } from "./zoom.js";

const LABELLED = 12; // pixels of a cell with whose labels all is read
const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-10, 0], PageDown: [10, 0] };

/** How many pixels a token may have, so that the map fits into `room` pixels, and `high` ones down. */
export function cellFor(map, room, high = Infinity) {
  const { left, top } = marginsOf(map);
  const fitting = Math.min(36, (room - left - 8) / map.columns, (high - top - 8) / map.rows);
  return fitting > LABELLED ? Math.floor(fitting) : Math.max(0.25, fitting);
}

/** What a cell says: query, key and value. */
export function cellText(map, row, column, extra = "") {
  const query = `query “${printable(map.tokens[row])}” (${row})`;
  if (column === null) return query;
  const key = `key “${printable(map.keys[column])}” (${column + map.first})`;
  const value = short(map.weights[row * map.columns + column]);
  return `${query} → ${key}: ${map.unit} ${value}${extra}`;
}

/** A row in a sentence: the keys that it reads most. */
export function rowText(map, row) {
  const values = [...map.weights.subarray(row * map.columns, (row + 1) * map.columns)].map((value, j) => [value, j]);
  const most = values.sort((a, b) => Math.abs(b[0]) - Math.abs(a[0])).slice(0, 3).filter(([value]) => value);
  const list = most.map(([value, j]) => `“${printable(map.keys[j])}” ${short(value, 2)}`).join(", ");
  return `row “${printable(map.tokens[row])}” (${row}) reads ${list || "nothing"}`;
}

/** The panel as an element, with `item`, its drawing for a sheet. `chosen` is the row that is outlined; `extra(row, column)` adds
 *  words to the text of a cell; panels of one `zoom` move together; `name` is what the map is called. */
export function mapPanel(map, { scale, colours, room, high, name, zoom: zoomName = "map", id = "map", chosen = null, onrow = null, extra = () => "" }) {
  const canvas = el("canvas", { className: "map" });
  const above = el("canvas", { className: "above", id, tabIndex: 0, role: "slider", "aria-label": `${name}: row`,
    "aria-orientation": "vertical", "aria-valuemin": 0, "aria-valuemax": map.rows - 1, "aria-describedby": `${id}-text` });
  const cell = cellFor(map, room, high);
  const zoom = zoomOf(zoomName, map);
  const box = { width: map.columns * cell, height: map.rows * cell };
  const look = () => ({ scale, colours, box, cell: cell * zoom.factor, from: { row: zoom.row, column: zoom.column } });
  const hint = `Point at a cell to read its weight${onrow ? "; click a row to see it in full" : ""}. Keys: arrows, + − 0 zoom.`;
  const said = el("output", { className: "cell-text", id: `${id}-text`, textContent: hint });
  let place;
  let cursor = chosen === null ? null : { row: chosen, column: null };
  const tip = el("div", { className: "tip", hidden: true, "aria-hidden": "true" }); // the line below may be out of sight
  const remark = el("p", { className: "note" });
  const mark = (at) => markCell(above, place, at, colours);
  const draw = () => {
    place = drawMap(canvas, map, look());
    Object.assign(canvas.dataset, { left: place.left, top: place.top, cell: place.cell, row: zoom.row, column: zoom.column,
      drawn: Number(canvas.dataset.drawn ?? 0) + 1 });
    above.style.touchAction = zoom.factor > 1 ? "none" : "pan-x pan-y";
    remark.textContent = place.every > 1 ? `one label for every ${place.every} tokens; zoom in to read them all` : "";
    mark(cursor);
  };
  const speak = (at) => {
    above.setAttribute("aria-valuenow", at?.row ?? 0);
    above.setAttribute("aria-valuetext", at ? (at.column === null ? rowText(map, at.row) : cellText(map, at.row, at.column)) : "no row");
  };
  const under = ({ clientX, clientY }) => {
    const at = above.getBoundingClientRect();
    return [clientX - at.left, clientY - at.top];
  };
  const cellAt = (event) => {
    const [x, y] = under(event);
    return [zoom.row + (y - place.top) / place.cell, zoom.column + (x - place.left) / place.cell];
  };
  const wasDragged = listen(above, zoom, { cellAt, pixels: () => place.cell, fit: cell });
  const say = (at) => {
    mark(at);
    said.textContent = cellText(map, at.row, at.column, at.column === null ? "" : extra(at.row, at.column));
  };
  above.onmousemove = (event) => {
    const at = place.at(...under(event));
    if (!at) return above.onmouseleave();
    say(at);
    tip.hidden = false;
    tip.textContent = said.textContent;
    const isRight = event.clientX > window.innerWidth / 2;
    Object.assign(tip.style, { top: `${event.clientY + 16}px`, left: isRight ? "" : `${event.clientX + 14}px`,
      right: isRight ? `${window.innerWidth - event.clientX + 14}px` : "" });
  };
  above.onmouseleave = () => {
    mark(cursor);
    tip.hidden = true;
    said.textContent = hint;
  };
  above.onclick = (event) => {
    const at = place.at(...under(event));
    if (at && onrow && !wasDragged()) onrow(at.row);
  };
  above.onkeydown = (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const by = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, "0": 0 }[event.key];
    const move = { ...MOVES, Home: [-map.rows, 0], End: [map.rows, 0] }[event.key];
    if (by !== undefined) zoomBy(zoom, by, cell);
    else if (event.key === "Enter" && cursor && onrow) onrow(cursor.row);
    else if (move) {
      const row = Math.max(0, Math.min(map.rows - 1, (cursor?.row ?? 0) + move[0]));
      const column = move[1] || (cursor?.column ?? null) !== null
        ? Math.max(0, Math.min(map.columns - 1, (cursor?.column ?? -1) + move[1])) : null;
      const isNewRow = row !== cursor?.row;
      cursor = { row, column };
      reveal(zoom, row, column);
      say(cursor);
      speak(cursor);
      if (onrow && isNewRow && column === null) onrow(row);
    } else return;
    event.preventDefault();
    event.stopPropagation(); // elsewhere the arrows change step and layer
  };
  const button = (text, title, onclick) => el("button", { className: "small", type: "button", textContent: text, title, "aria-label": title, onclick });
  const buttons = el("div", { className: "zoom", role: "group", "aria-label": "zoom" },
    button("−", "zoom out", () => zoomBy(zoom, 1 / 1.5, cell)), button("+", "zoom in", () => zoomBy(zoom, 1.5, cell)),
    button("whole map", "show the whole map", () => zoomBy(zoom, 0, cell)));
  follow(zoom, canvas, draw);
  draw();
  speak(cursor);
  const element = el("div", { className: "panel" }, el("div", { className: "stack" }, canvas, above), buttons, said, remark, tip);
  element.item = { title: name, draw: (other) => drawMap(other, map, look()) };
  return element;
}
