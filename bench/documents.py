"""Rows packed with documents beside rows of one document, of as many tokens: processor time of forward and backward.

    python bench/documents.py [VARIANT ...]

At T = 256 and 2048 the documents are of a median length of T / 8 (lognormal, sigma 0.8, at most T), packed as
data.documents=true packs them. Both sides, without and with documents, take turns in one process on one core, in
float32, in a GPT of 2 layers of width 128; a figure is the least of the turns.
"""

import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.attention.documents import Documents
from attnlab.data.packing import Excerpt, pack
from attnlab.laws.subject import subject_of
from attnlab.model import GPT, ModelConfig

VARIANTS = ("multi_head", "gqa", "sliding_window", "mla", "softcap", "linear", "gated_delta", "mamba2")
SHAPES = ((256, 8), (2048, 2))  # tokens of a row, and rows
TURNS = 4


def documents(context: int, n_rows: int) -> Tensor:
    """The numbers of the documents in each row."""
    draw = torch.randn(64 * n_rows, generator=torch.Generator().manual_seed(0))
    lengths = (context / 8 * (0.8 * draw).exp()).long().clamp(1, context).tolist()
    drawn: list[int] = []
    while sum(drawn) < n_rows * context:
        drawn.append(lengths.pop())
    rows, _ = pack([Excerpt(0, length) for length in drawn], context, n_rows)
    numbers = torch.zeros(n_rows, context, dtype=torch.long)
    for row, pieces in zip(numbers, rows, strict=True):
        own = [torch.full((piece.length,), number) for number, piece in enumerate(pieces)]
        filled = torch.cat(own)[:context]
        row[: len(filled)] = filled
        row[len(filled) :] = len(pieces)
    return numbers


def seconds(model: GPT, ids: Tensor, targets: Tensor, numbers: Tensor | None) -> float:
    """Processor time of one forward and backward pass."""
    started = time.process_time()
    F.cross_entropy(model(ids, numbers).flatten(0, 1), targets.flatten()).backward()
    return time.process_time() - started


def main() -> None:
    torch.set_num_threads(1)
    for context, n_rows in SHAPES:
        numbers = documents(context, n_rows)
        packed, n_documents = Documents(numbers), int(numbers[:, -1].sum()) + n_rows
        print(f"T={context}: {n_documents} documents in {n_rows} rows, {len(packed.batches)} calls a layer")
        for name in sys.argv[1:] or VARIANTS:
            sizes = ModelConfig(n_layers=2, d_model=128, context=context)
            model = GPT(sizes, vocab_size=512, attention=subject_of(name).factory)
            ids, targets = torch.randint(512, (2, n_rows, context))
            took: dict[bool, list[float]] = {False: [], True: []}
            for turn in range(TURNS + 1):
                for with_documents in took:
                    spent = seconds(model, ids, targets, numbers if with_documents else None)
                    took[with_documents] += [spent] if turn else []  # the first turn warms up
            plain, split = min(took[False]), min(took[True])
            way = "in the layer" if model.honours_documents else "document by document"
            print(
                f"  {name:<16} {plain * 1e3:8.1f} ms   {split * 1e3:8.1f} ms   {split / plain:.2f}   {way}", flush=True
            )


if __name__ == "__main__":
    main()
