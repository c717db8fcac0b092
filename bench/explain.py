"""What a worked example takes once torch is there, for a few variants: python bench/explain.py [--names gqa mla]

From the import of the room to the page as text: a config is composed, the layer is built and traced, the flow is found,
the page is written out. A process each, as a user starts one. Processor time beside the clock's: other processes
lengthen that. The bound is 2 s after torch's import.
"""

import argparse
import os
import subprocess
import sys

ONE = """
import sys, time
import torch
clock, work = time.perf_counter(), time.process_time()
from attnlab.explain.explanations import variant
from attnlab.explain.html import page
text = page(sys.argv[1], [variant(sys.argv[1])])
print(f"{time.process_time() - work:.2f} {time.perf_counter() - clock:.2f} {len(text) // 1000}")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--names", nargs="+", default=["multi_head", "gqa", "mla", "gated_delta", "ttt"])
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name in parser.parse_args().names:
        words = [sys.executable, "-c", ONE, name]
        work, clock, size = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
        print(f"{name:20} {work} s of the processor, {clock} s by the clock, a page of {size} kB")


if __name__ == "__main__":
    main()
