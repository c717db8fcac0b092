"""What heads do on the rows of a task, where it is known which token is the answer and what each token is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from attnlab.inspection.head_metrics import FIRST_TOKEN_MASS, ROW_SUM, shares, tagged
from attnlab.inspection.maps import GivesMaps

ANSWER_MASS, SINK_RATE = "attention_answer_mass", "attention_sink_rate"
SINK = 0.3  # a head has a sink if it gives the first token more than this on average (epsilon of arXiv 2410.10781)
MOST_ROWS, MOST_WEIGHTS = 32, 1 << 21  # of a task that are looked at; weights of one head in all of them


class TaskRows(NamedTuple):
    """Rows whose maps are measured: tokens, the answer wanted after each (negative: none), and the kind of each."""

    ids: Int64[np.ndarray, "b t"]
    targets: Int64[np.ndarray, "b t"]
    kinds: Sequence[str]  # of each token of the vocabulary, such as k for k17


def rows_to_measure(length: int) -> int:
    """How many rows of this length are looked at."""
    return max(1, min(MOST_ROWS, MOST_WEIGHTS // length**2))


def token_kinds(names: Sequence[str]) -> list[str]:
    """What stands before the number in the name of a token; the name itself, where that is all."""
    return [name.rstrip("0123456789") or name for name in names]


def task_metrics(model: GivesMaps, rows: TaskRows) -> dict[str, float]:
    """The numbers of all heads on these rows; neither the model nor any random stream is changed.

    attention_answer_mass/L00H01: which share a head gives to tokens that are the answer, as mean over all answers that
    stand in the row so far. attention_row_sum/k/L00H01: what the weights of a row add up to where a token of kind k
    looks. attention_sink_rate: the share of heads that have a sink.
    """
    device = next(model.parameters()).device
    ids = torch.from_numpy(rows.ids).to(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        maps = model.attention_maps(ids)
    at = (rows.targets[:, :, None] == rows.ids[:, None, :]) & np.tri(rows.ids.shape[1], dtype=bool)
    kinds, numbers, sinks = np.array(rows.kinds)[rows.ids], dict[str, float](), list[float]()
    for layer, entry in enumerate(maps):
        if entry.kind == "none" or entry.weights is None:
            continue
        weights = entry.weights.detach().to("cpu", torch.float32).numpy()
        w = np.stack([shares(row, entry.kind) for row in weights])
        sinks += w[:, :, :, 0].mean(axis=(0, 2)).tolist()
        if at.any():
            numbers |= tagged({ANSWER_MASS: answer_mass(w, at)}, layer)
        sums = weights.astype(np.float64).sum(axis=-1).transpose(1, 0, 2)
        for kind in np.unique(kinds):
            numbers |= tagged({f"{ROW_SUM}/{kind}": sums[:, kinds == kind].mean(axis=1)}, layer)
    return numbers | ({SINK_RATE: sink_rate(sinks)} if sinks else {})


def answer_mass(w: Float[np.ndarray, "b h t s"], at: Bool[np.ndarray, "b t s"]) -> Float[np.ndarray, " h"]:
    """The share that goes to the tokens `at`, as mean over the rows of a map that have some."""
    mass = (w * at[:, None]).sum(axis=-1).transpose(1, 0, 2)
    means: np.ndarray = mass[:, at.any(axis=-1)].mean(axis=-1)
    return means


def sink_rate(first_token: Sequence[float]) -> float:
    """The share of heads whose mean weight on the first token is more than `SINK`."""
    return float(np.mean(np.array(first_token) > SINK))


def sink_rate_of(numbers: dict[str, float]) -> dict[str, float]:
    """The same from numbers of heads that were taken of a sentence; nothing without any."""
    masses = [value for tag, value in numbers.items() if tag.startswith(f"{FIRST_TOKEN_MASS}/")]
    return {SINK_RATE: sink_rate(masses)} if masses else {}
