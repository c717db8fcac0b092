"""The names of files that more than one module of this package reads, or that stand in messages."""

CONFIG, CODE, SUMMARY, METRICS = "config.yaml", "code.json", "summary.json", "metrics.csv"  # in the folder of a run
TOKENIZER = "tokenizer.json"  # of a run; what Hugging Face's tools write is called so, too
LAST_MAPS = "maps/last.safetensors"
EVENTS = "events.out.tfevents."  # how the names of TensorBoard's files begin
MANIFEST, PREREGISTRATION = "manifest.json", "preregistration.json"  # of an experiment; checkpoints have the first, too
SEED = "seed_"  # how the name of a run's folder begins
TEST = "test"  # what summary.json holds of the test part, and how its metrics begin
