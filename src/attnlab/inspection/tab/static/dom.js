// Small pieces of page: elements, menus and ticks. Text only ever becomes text, never HTML.

/** An element with properties (`data-...` and `aria-...` as attributes) and children; strings become text. */
export function el(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-")) element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A labelled menu. `options` are [value, text]. */
export function menu(label, options, value, onchange, title = "") {
  const select = el("select", { onchange: () => onchange(select.value), "aria-label": label });
  select.append(...options.map(([key, text]) => el("option", { value: String(key), textContent: text })));
  select.value = String(value);
  select.disabled = options.length < 2;
  return el("label", { className: "field", title }, el("span", { textContent: label }), select);
}

/** A labelled tick. */
export function tick(label, checked, onchange, title = "") {
  const box = el("input", { type: "checkbox", checked, onchange: () => onchange(box.checked) });
  return el("label", { className: "tick", title }, box, label);
}

/** A name such as attention_first_token_mass as words. */
export const words = (name) => name.replace(/^attention_/, "").replace(/[_/]/g, " ");

const MEANINGS = {
  attention_entropy: "how widely the head looks, in nats: 0 at one token, log n at n tokens alike",
  attention_first_token_mass: "the share of attention that goes to the first token",
  attention_distance: "how many tokens away the head reads, on average",
  attention_effective_rank: "how many independent patterns the map is made of",
  attention_row_sum: "what the weights of a row add up to, on average",
  attention_negative_share: "which part of the size of all weights is negative",
  attention_diversity: "0 where all heads of the layer look alike, 1 where no two look at the same tokens",
  attention_previous_token: "on a random sequence and its repetition: the share that goes to the token before",
  attention_duplicate_token: "on a random sequence and its repetition: the share that goes to the same token, earlier",
  attention_induction: "on a random sequence and its repetition: the share that goes to what followed the same token",
  head_ablation_zero: "the change in validation loss when the head gives nothing",
  head_ablation_mean: "the change in validation loss when the head always gives its average",
};

/** What a number measures, as far as it is one of ours. */
export const meaning = (name) => MEANINGS[name] ?? "";

/** A paragraph that explains or warns. */
export const note = (text, kind = "note") => el("p", { className: kind, textContent: text });

/** How high an element will be, so wide, before it is shown. */
export function heightOf(element, width) {
  const room = el("div", { className: "hidden" }, element);
  Object.assign(room.style, { width: `${width}px`, whiteSpace: "normal" });
  document.body.append(room);
  const height = element.offsetHeight;
  room.remove();
  element.remove();
  return height;
}
