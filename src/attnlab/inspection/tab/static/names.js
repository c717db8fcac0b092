// What runs are called: by what differs between them. A run's folder is EXPERIMENT/VARIANT-HASH.CODE/seed_N; what all share is
// left out, and so is a hash that tells nothing more. Runs of other programs keep their paths.

const FOLDER = /^(?<stem>.+)-[0-9a-f]{8}(?:\.[0-9a-f]{1,64})?$/;
const SEED = /^seed_(?<seed>\d+)$/;

const variantOf = (run) => run.split("/").slice(0, SEED.test(run.split("/").at(-1)) ? -1 : undefined).join("/");

/** All seeds of a run's variant. */
export const seedsOf = (run, { runs }) => Object.keys(runs).filter((other) => variantOf(other) === variantOf(run));

/** The names of all runs: from a run to {variant, seed, name}. `about` may say in which settings variants of one name differ. */
export function namesOf(runs, about = {}) {
  const all = Object.keys(runs);
  const variants = [...new Set(all.map(variantOf))];
  const split = variants.map((variant) => variant.split("/"));
  let common = 0;
  while (variants.length > 1 && split.every((parts) => parts.length > common + 1 && parts[common] === split[0][common])) common++;
  if (variants.length === 1) common = split[0].length - 1;
  const short = (variant) => variant.split("/").slice(common).map((part) => part.match(FOLDER)?.groups.stem ?? part).join("/");
  const count = {};
  for (const variant of variants) count[short(variant)] = (count[short(variant)] ?? 0) + 1;
  const names = new Map();
  const seeds = new Set(all.map((run) => run.split("/").at(-1)));
  for (const run of all) {
    const variant = variantOf(run);
    const settings = about[run]?.settings;
    const name = count[short(variant)] === 1 ? short(variant)
      : settings ? `${short(variant)} ${settings}` : variant.split("/").slice(common).join("/");
    const seed = run.split("/").at(-1).match(SEED)?.groups.seed;
    const isOneSeed = seed === undefined || (seeds.size === 1 && variants.length > 1);
    names.set(run, { variant: name, name: isOneSeed ? name : `${name} · seed ${seed}` });
  }
  return names;
}

/** What a run is called. */
export const runName = (run, { names }) => names.get(run)?.name ?? run;

/** What a run's variant is called. */
export const variantName = (run, { names }) => names.get(run)?.variant ?? run;
