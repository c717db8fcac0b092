// What is shown, in the address: a reload and a sent link show the same. The address is that of TensorBoard's page, in
// which this one lies in a frame; its part after # begins with the name of the tab and goes on with key=value, of which
// TensorBoard keeps those that are not its own. Where the page is opened by itself, the address is its own.

const TAB = "attention";
const PREFIX = `${TAB}.`; // other tabs have keys of their own there
const page = window.parent;
const number = { read: (text) => (/^\d{1,15}$/.test(text) ? Number(text) : undefined), write: String };
const text = { read: (value) => value, write: (value) => value };
const flag = { read: (value) => value === "1", write: () => "1" };
const list = {
  read: (value) => new Set(value.split("|").map(decodeURIComponent)),
  write: (runs) => [...runs].map((run) => run.replace(/[%|]/g, encodeURIComponent)).join("|"),
};
const one = (...allowed) => ({ read: (value) => (allowed.includes(value) ? value : undefined), write: String });

const integers = { read: (value) => new Set(value.split(",").map(Number).filter(Number.isInteger)), write: (all) => [...all].join(",") };

// Each key of the address with the part of the state that it holds, how it is read, and the value that is left out.
const KEYS = [
  ["run", "run", text, null], ["view", "view", one("grid", "head", "lines", "compare", "training"), "grid"],
  ["sentence", "sentence", text, null], ["layer", "layer", number, 0], ["head", "head", number, 0], ["step", "step", number, null],
  ["token", "row", number, null], ["scale", "mode", one("sqrt", "linear", "log"), "sqrt"], ["largest", "widest", flag, false],
  ["without_first", "sink", flag, false], ["weighted", "weighted", flag, false], ["rollout", "rollout", flag, false],
  ["sort", "sort", text, "order"], ["ascending", "ascending", flag, false], ["compare", "compared", list, null],
  ["show", "how", one("side", "difference"), "side"], ["mean", "mean", flag, false],
  ["from", "base", text, null], ["seeds", "seeds", flag, false], ["by_number", "byNumber", flag, false], ["heads_off", "off", integers, null],
];

/** The parts of a state that are empty sets where the address names none. */
export const empty = () => ({ compared: new Set(), off: new Set() });

const pairs = () => page.location.hash.slice(1).split("&");
const ours = (pair) => pair.startsWith(PREFIX);

/** What the address says: only the parts of the state that it names, and that can be read. */
export function readAddress() {
  const named = new Map(pairs().filter(ours).map((pair) => pair.slice(PREFIX.length).split("=")));
  const said = {};
  for (const [key, part, how] of KEYS) {
    try {
      const value = how.read(decodeURIComponent(named.get(key) || "%"));
      if (value !== undefined) said[part] = value;
    } catch { /* not named, or a link that was cut off */ }
  }
  return said;
}

/** What the state is where the address names nothing. */
export const UNNAMED = Object.fromEntries(KEYS.map(([, part, , usual]) => [part, usual]));

/** The address that shows a state. */
export function addressOf(state) {
  const said = KEYS.filter(([, part, , usual]) => state[part] !== usual && state[part]?.size !== 0)
    .map(([key, part, how]) => `${PREFIX}${key}=${encodeURIComponent(how.write(state[part]))}`);
  const others = pairs().filter((pair) => pair.includes("=") && !ours(pair));
  const address = new URL(page.location.href);
  address.hash = [TAB, ...others, ...said].join("&");
  return address.href;
}

let later; // browsers refuse hundreds of changes in a row, as when steps are played

/** Write the state into the address; another run or view becomes a place to go back to. Other tabs' addresses are left alone. */
export function writeAddress(state, isNewPlace) {
  clearTimeout(later);
  const write = () => {
    if (page !== window && pairs()[0] !== TAB) return;
    const address = addressOf(state);
    if (address !== page.location.href) page.history[isNewPlace ? "pushState" : "replaceState"](page.history.state, "", address);
  };
  if (isNewPlace) write();
  else later = setTimeout(write, 100);
}

/** Call `then` when somebody goes back, or puts another link into the same window. */
export function onAddress(then) {
  const ask = () => { if (page === window || pairs()[0] === TAB) then(); };
  page.addEventListener("popstate", ask);
  window.addEventListener("pagehide", () => page.removeEventListener("popstate", ask));
}
