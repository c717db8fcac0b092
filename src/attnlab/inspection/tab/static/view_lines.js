// The heads of a layer over each other, as lines between two columns of tokens.

import { makeScale, ownColour } from "./colours.js";
import { scaleSettings, shownMaps } from "./derive.js";
import { el, note } from "./dom.js";
import { headSwitches, linesPanel } from "./lines.js";
import { mapRows } from "./sheet.js";

/** The view: {element, sheet}. */
export async function linesView({ state, colours, update }) {
  const { run, sentence, step, layer, layers, row } = state;
  const shown = await shownMaps({ run, sentence, layer, step, layers, most: 512 }, state);
  const all = shown.heads.map((map, h) => ({ map, name: shown.names[h], colour: ownColour(h, shown.heads.length, colours) }));
  const on = new Set(all.map((_, h) => h).filter((h) => !state.off.has(h)));
  const heads = all.filter((_, h) => on.has(h));
  const title = `Layer ${layer} at step ${step}`;
  const switches = headSwitches(all, on, (next) => update({ off: new Set(all.map((_, h) => h).filter((h) => !next.has(h))) }));
  const element = el("section", { className: "view lines-view" }, el("h2", { textContent: title }), switches);
  if (!heads.length) {
    element.append(note("All heads are switched off."));
    return { element };
  }
  const scale = makeScale({ ...scaleSettings(heads.map(({ map }) => map), state), signed: false });
  const signed = heads.some(({ map }) => map.signed);
  element.append(note(`The stronger a line, the larger the ${heads[0].map.unit}; ${scale.caption}.${signed ? " Negative weights are dashed." : ""}`));
  const token = row === null ? null : Math.min(row, heads[0].map.rows - 1);
  const panel = linesPanel(heads, { scale, colours, width: Math.min(760, state.width), token, name: title, ontoken: (i) => update({ row: i }) });
  element.append(panel, ...shown.notes.map((text) => note(text)));
  return { element, sheet: { items: [panel.item], rows: () => mapRows(["head"], heads.map(({ map, name }) => ({ map, about: [name] }))) } };
}
