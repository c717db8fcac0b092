"""The test part of the data, which neither training nor any choice has seen: judged by it once, when all is decided."""

from typing import NamedTuple

import numpy as np
import torch

from attnlab.attention.evaluating import evaluating
from attnlab.data.dataset import Dataset
from attnlab.model import GPT
from attnlab.store.names import TEST
from attnlab.store.run_folder import RunFolder
from attnlab.training.extrapolation import AT_ONCE, add_scores
from attnlab.training.scoring import score_answers, tally


class UnseenScore(NamedTuple):
    """Loss in nats and accuracy over all answers of the test part."""

    loss: float
    accuracy: float


@torch.no_grad()
def score_test(model: GPT, dataset: Dataset, context: int, *, seed: int) -> UnseenScore:
    """Judge a model by the rows of a dataset whose validation part is the test part; of a task those of `seed`."""
    rows, at_once = np.arange(dataset.n_val_rows(context)), max(1, AT_ONCE // context)
    device, sums = next(model.parameters()).device, torch.zeros(3, dtype=torch.float64)
    with evaluating(model):
        for first in range(0, len(rows), at_once):
            batch = dataset.val_batch(rows[first : first + at_once], context=context, seed=seed).to(device)
            scored = score_answers(model(batch.ids, batch.documents), batch.targets)
            sums += tally(scored, torch.zeros_like(batch.targets), 1)[0]
    count, right, nats = sums.tolist()
    return UnseenScore(nats / count, right / count)


def keep_test(folder: RunFolder, score: UnseenScore, *, step: int) -> None:
    """Add the score to a finished run, as the metrics test/loss and test/accuracy."""
    scalars = {f"{TEST}/{name}": value for name, value in score._asdict().items()}
    add_scores(folder, TEST, score._asdict(), scalars, step=step)
