"""Several folders of one training as the steps of one run of the Attention tab."""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from attnlab.errors import UsageError
from attnlab.interchange.foreign.loading import run_name, step_of

MOST_CHARACTERS = 48  # of the name of a sentence


def in_order(folders: Sequence[Path]) -> tuple[str, list[tuple[int, Path]]]:
    """What a training is called, and its folders with their steps, the earliest first.

    A pattern such as run/checkpoint-* stands for the folders it fits. Where no folder says its step, they are counted
    in the order in which they were named. Raises UsageError for two folders of one step.
    """
    named = [path for folder in folders for path in _matching(folder)]
    steps = [step_of(folder) for folder in named]
    if all(step is None for step in steps):
        pairs = [*enumerate(named)]
    else:
        for folder, step in zip(named, steps, strict=True):
            if step is None:
                raise UsageError(f"hf ({folder}) does not say its step, as a folder named checkpoint-500 does")
        pairs = sorted((step or 0, folder) for step, folder in zip(steps, named, strict=True))
    for (one, folder), (other, next_folder) in pairwise(pairs):
        if one == other:
            raise UsageError(f"hf: {folder} and {next_folder} are both of step {one}, which must be one folder")
    return run_name(pairs[0][1]), pairs


def sentence_of(prompt: str) -> str:
    """What a prompt is called in the tab: itself, in a line; a long one by its beginning and a digest."""
    line = " ".join(prompt.split())
    if len(line) <= MOST_CHARACTERS:
        return line or "prompt"
    return f"{line[:MOST_CHARACTERS]}… {hashlib.sha256(prompt.encode()).hexdigest()[:6]}"


def _matching(folder: Path) -> list[Path]:
    if folder.exists() or not set("*?[") & set(str(folder)):
        return [folder]
    root = Path(folder.anchor or ".")
    matches = sorted(root.glob(str(folder.relative_to(folder.anchor) if folder.anchor else folder)))
    if not matches:
        raise UsageError(f"hf ({folder}) fits no folder")
    return matches
