"""How long a report over many run folders takes, in seconds: python bench/report.py [--runs 1000]

One small run is trained; its folder is copied for 50 variants and as many seeds as needed, each copy with a name, a
seed and results of its own, and with its maps. The report is made by the command that users type, in a fresh process.
"""

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from attnlab.store.digests import digest
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.run_folder import RunFolder, group_name

ROOT = Path(__file__).parents[1]
VARIANTS = 50
AIM = 10.0
SMALL = "model.n_layers=2 model.d_model=32 model.n_heads=2 trainer.max_steps=60 trainer.threads=1 trainer.val_every=10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = [*SMALL.split(), f"paths.runs={folder}/runs", "experiment_name=one"]
        subprocess.run([sys.executable, ROOT / "train.py", *words], check=True, capture_output=True, cwd=ROOT)
        (one,) = ExperimentFolder(Path(folder, "runs", "one")).runs()
        experiment = ExperimentFolder(Path(folder, "runs", "many"))
        for i in range(options.runs):
            copy(one, experiment, i % VARIANTS, i // VARIANTS)
        started = time.perf_counter()
        code = f"from attnlab.cli import main; main(['report', {str(experiment)!r}])"
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - started
        count = len((experiment.report / "runs.csv").read_text().splitlines()) - 1
    assert "cannot tell" in done.stdout
    print(f"{'runs':>6}{'variants':>10}{'seconds':>9}{'aim':>6}")
    print(f"{count:6}{min(VARIANTS, options.runs):10}{seconds:9.1f}{AIM:6.0f}")


def copy(one: RunFolder, experiment: ExperimentFolder, variant: int, seed: int) -> None:
    """Put a copy of a run where another variant and seed belong."""
    name, hash8 = f"variant{variant:02d}" if variant else "multi_head", f"{variant:08x}"
    summary = one.read_summary()
    folder = experiment.run(group_name(name, hash8, summary["code"]), seed)
    shutil.copytree(one, folder, ignore=shutil.ignore_patterns("checkpoints", "events.*"))
    move = random.Random(f"{variant} {seed}").gauss(0, 0.01)
    rows = folder.metrics.read_text().splitlines()
    rows = [f"{row.rpartition(',')[0]},{moved(row, move)}" if ",val/loss," in row else row for row in rows]
    folder.metrics.write_text("\n".join([*rows, ""]))
    config = re.sub(r"(?m)^(seed|  (?:data|init|noise|eval)): 0$", rf"\1: {seed}", folder.config.read_text())
    config = config.replace("variant: multi_head", f"variant: {name}").replace(
        "  dropout: 0.1", f"  dropout: 0.{variant + 1}"
    )
    folder.config.write_text(config)
    losses = [float(row.rpartition(",")[2]) for row in rows if ",val/loss," in row]
    summary |= {"variant": name, "hash": hash8, "seed": seed, "val_loss": losses[-1]}
    folder.write_summary(summary, {folder.metrics.name: digest(folder.metrics.read_bytes())})


def moved(row: str, by: float) -> float:
    return float(row.rpartition(",")[2]) + by


if __name__ == "__main__":
    main()
