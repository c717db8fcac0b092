// What silencing a head does to the loss, as `attnlab ablate_heads` has measured it. A map says what a head looks at;
// this says whether that is good for anything.

import { el, note } from "./dom.js";

/** The newest effect of a head as {step, zero, mean}; null if it has not been measured. */
export function effectOf(curves, name, tags) {
  const newest = (tag) => curves[tag]?.[name]?.at(-1);
  const [zero, mean] = [newest(tags.zero), newest(tags.mean)];
  return zero && mean ? { step: zero[0], zero: zero[1], mean: mean[1] } : null;
}

/** A change with its sign. */
export const change = (x) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(4)}`;

/** The effect of a head as a line, or how to measure it; null where that is not known, for a model of another program. */
export function effectLine(effect, command) {
  if (!effect) return howToMeasure(command);
  const line = note(`silenced: validation loss ${change(effect.zero)} (zero), ${change(effect.mean)} (mean), at step ${effect.step}`);
  line.title = "the change in nats per token when this head gives nothing (zero), or always its own average (mean); above 0 the head was useful";
  line.classList.add("effect");
  return line;
}

/** A line that names the command that measures a run's heads, if there is one. */
export function howToMeasure(command) {
  return command && el("p", { className: "note effect" }, "To see what each head is good for: ", el("code", { textContent: command }));
}
