"""The recall task of the law that a variant can learn."""

import torch

from attnlab.laws.learning import ASKED, KEYS, PAIRS, VALUES, recall_batch


def test_recall() -> None:
    """Every question is answered by a pair of its own row, and by nothing else."""
    inputs, targets = recall_batch(3, 200)
    assert inputs.shape == targets.shape == (200, PAIRS + ASKED)
    for row, answers in zip(inputs.tolist(), targets.tolist(), strict=True):
        pairs = dict(divmod(token, VALUES) for token in row[:PAIRS])
        assert len(pairs) == PAIRS  # different keys, so that there is one answer
        assert answers[:PAIRS] == [-100] * PAIRS
        assert answers[PAIRS:] == [pairs[token - KEYS * VALUES] for token in row[PAIRS:]]


def test_no_shortcut() -> None:
    """The asking token alone says nothing: its answers are even. A step has its batch, and each another one."""
    inputs, targets = recall_batch(0, 4000)
    for key in range(KEYS):
        answers = targets[inputs == KEYS * VALUES + key]
        share = torch.bincount(answers, minlength=VALUES) / len(answers)
        assert float((share - 1 / VALUES).abs().max()) < 0.05
    assert torch.equal(inputs, recall_batch(0, 4000)[0]) and not torch.equal(inputs, recall_batch(1, 4000)[0])
