// One labelled map that answers to the mouse: hovering names query, key and value; a click chooses the query's row.

import { el } from "./dom.js";
import { drawMap, markCell, printable, short } from "./map_view.js";

/** How many pixels a token may have, so that the map fits into `room` pixels. */
export function cellFor(map, room) {
  const fitting = Math.floor((room - 120) / Math.max(map.rows, map.columns));
  return Math.max(1, Math.min(36, fitting));
}

/** What a cell says: query, key and value. */
export function cellText(map, row, column, extra = "") {
  const query = `query “${printable(map.tokens[row])}” (${row})`;
  if (column === null) return query;
  const key = `key “${printable(map.keys[column])}” (${column + map.first})`;
  const value = short(map.weights[row * map.columns + column]);
  return `${query} → ${key}: ${map.unit} ${value}${extra}`;
}

/** The panel as an element. `chosen` is the row that is outlined; `extra(row, column)` adds words to the hover text. */
export function mapPanel(map, { scale, colours, room, chosen = null, onrow = null, extra = () => "" }) {
  const canvas = el("canvas", { className: "map" });
  const above = el("canvas", { className: "above" });
  const cell = cellFor(map, room);
  const place = drawMap(canvas, map, { scale, colours, cell });
  const hint = `Point at a cell to read its weight${onrow ? "; click a row to see it in full" : ""}.`;
  const said = el("output", { className: "cell-text", textContent: hint });
  const fallBack = () => markCell(above, place, chosen === null ? null : { row: chosen }, colours);
  const under = (event) => {
    const box = above.getBoundingClientRect();
    return place.at(event.clientX - box.left, event.clientY - box.top);
  };
  above.onmousemove = (event) => {
    const at = under(event);
    if (!at) return above.onmouseleave();
    markCell(above, place, at, colours);
    said.textContent = cellText(map, at.row, at.column, at.column === null ? "" : extra(at.row, at.column));
  };
  above.onmouseleave = () => {
    fallBack();
    said.textContent = hint;
  };
  above.onclick = (event) => {
    const at = under(event);
    if (at && onrow) onrow(at.row);
  };
  fallBack();
  const remarks = [];
  if (place.every > 1) remarks.push(`one label for every ${place.every} tokens`);
  const element = el("div", { className: "panel" }, el("div", { className: "stack" }, canvas, above), said,
    remarks.length ? el("p", { className: "note", textContent: remarks.join("; ") }) : null);
  Object.assign(canvas.dataset, { left: place.left, top: place.top, cell: place.cell });
  return element;
}
