"""What `attnlab look` takes for 236 tokens in 12 layers of 12 heads (85 million parameters): python bench/look.py

A first reading, another layer of the same text, the weights of a layer, its steps: seconds of the processor and of the
clock (other processes lengthen that), and megabytes that are sent. The bound is 3 s and 2 MB a reading.
"""

import os
import time
from collections.abc import Callable

import torch

from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.data.tokenizers import ByteTokenizer
from attnlab.explain.look.look_page import reading_page, steps_page
from attnlab.explain.look.reader import Question, TextReader
from attnlab.inspection.map_page.page import layer_numbers

SIZES = ["model.n_layers=12", "model.n_heads=12", "model.d_model=768", "model.context=256"]
TEXT = ("Nobody opens the box. The goat comes at dawn, and with it the sea. " * 4)[:236]


def measure(name: str, answer: Callable[[], str | bytes]) -> None:
    """Print what an answer takes."""
    clock, work = time.perf_counter(), time.process_time()
    size = len(answer())
    took = time.process_time() - work, time.perf_counter() - clock
    print(f"{name:32} {took[0]:.2f} s of the processor, {took[1]:.2f} s by the clock, {size / 1e6:.2f} MB", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    reader = TextReader("run", 0, build_model(compose_config(SIZES), 256).eval(), ByteTokenizer())
    reader.read(Question("warm"))
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    measure("a text", lambda: reading_page(reader, reader.read(Question(TEXT, layer=3, head=5))))
    measure("the same text, another layer", lambda: reading_page(reader, reader.read(Question(TEXT, layer=7, head=2))))
    measure("the weights of a layer", lambda: layer_numbers(reader.maps(TEXT), 3))
    measure("the steps of a layer", lambda: steps_page(reader.explain(Question(TEXT, layer=3))))


if __name__ == "__main__":
    main()
