"""How long the command line takes to answer, and how many modules it imports: python bench/start_up.py [--rounds N]

Medians, in turn with those of `python -c "import torch"`; "more" is what a command takes beyond that.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from attnlab.cli._arguments import COMMANDS

TRAIN = Path(__file__).parents[1] / "train.py"
ATTNLAB = "from attnlab.cli import main; main()"
COUNT = (
    "import atexit, sys; atexit.register(lambda: print(len(sys.modules), *(name for name in ('torch', 'lightning') "
    "if name in sys.modules), file=sys.stderr)); "
)
RUN = "runs/default"  # of a tiny run that is trained first
TINY = ("trainer.max_steps=2", "trainer.threads=1", "tokenizer=byte", "maps.steps=0", "sample.steps=0")
RUN_TRAIN = f"import runpy; sys.argv[0] = {str(TRAIN)!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
CASES = {
    "train.py --help": (RUN_TRAIN, "--help"),
    "train.py --cfg job": (RUN_TRAIN, "--cfg", "job"),
    "a mistyped name": (RUN_TRAIN, "attention=multi_haed"),
    "a mistyped key": (RUN_TRAIN, "model.n_layer=3"),
    "a mistyped number": (RUN_TRAIN, "trainer.max_steps=ten"),
    "attnlab --help": (ATTNLAB, "--help"),
    **{f"attnlab {name} --help": (ATTNLAB, name, "--help") for name in COMMANDS},
    "explain, mistyped name": (ATTNLAB, "explain", "attention=multi_haed"),
    "check, mistyped name": (ATTNLAB, "check", "attention=multi_haed"),
    "an impossible construction": (RUN_TRAIN, "model.n_heads=5"),
    "explain": (ATTNLAB, "explain", "attention=simple"),
    "check, one law": (ATTNLAB, "check", "attention=multi_head", "laws=shape"),
    "generate": (ATTNLAB, "generate", f"run={RUN}", "prompt=Once", "tokens=1"),
    "maps": (ATTNLAB, "maps", f"run={RUN}", "prompt=Once upon"),
}


def seconds(folder: str, *words: str) -> tuple[float, str]:
    """How long a command takes, and the last line of what it says to standard error."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", *words], cwd=folder, capture_output=True, text=True, check=False)
    return time.perf_counter() - started, (done.stderr.splitlines() or [""])[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{'case':32}{'s':>7}{'torch, s':>10}{'more, s':>9}{'modules':>9}  torch, lightning")
    with tempfile.TemporaryDirectory() as folder:
        seconds(folder, RUN_TRAIN, *TINY)
        for name, (code, *words) in CASES.items():
            own, torch, line = [], [], ""
            for _ in range(options.rounds):
                taken, line = seconds(folder, COUNT + code, *words)
                own.append(taken)
                torch.append(seconds(folder, "import torch")[0])
            count, *heavy = line.split() or ["-", "not counted"]  # attnlab train becomes another program
            more = statistics.median(a - b for a, b in zip(own, torch, strict=True))
            columns = f"{statistics.median(own):7.2f}{statistics.median(torch):10.2f}{more:9.2f}{count:>9}"
            print(f"{name:32}{columns}  {', '.join(heavy) or 'neither'}", flush=True)


if __name__ == "__main__":
    main()
