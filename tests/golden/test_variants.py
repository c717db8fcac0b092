"""Every variant as recorded: its parameters, their start values, and what it computes from others.

To write it again after a change that is meant to move numbers: `python -m tests.golden.test_variants`. No law looks at
start values, for a law has to hold from any; but a start decides short runs, so none moves unnoticed.
"""

import json
from pathlib import Path

import pytest
import torch
from tests.laws.cases import NAMES

from attnlab.laws import subject_of
from attnlab.laws.subject import LONG, ids, perturbed

FILE = Path(__file__).with_name("variants.json")
START = 1e-6  # start values are float32, rounded alike everywhere; their sums are float64
SAME = 1e-9  # float64: sums in another order, on another processor


def recorded(name: str) -> dict[str, list[float]]:
    """What a variant is.

    Of every parameter of its layers, by name and shape: in how many layers, in how many trained, mean and root mean
    square at the start. Of the logits for random tokens, with all parameters moved off their start: root mean square,
    and that of the gradients of its mean square.
    """
    subject = subject_of(name)
    model = subject.gpt(subject.depth)
    tensors: dict[str, list[torch.nn.Parameter]] = {}
    for layer in model.layers:
        for key, parameter in layer.attention.named_parameters():
            tensors.setdefault(f"{key} {'x'.join(map(str, parameter.shape))}", []).append(parameter)
    rows = {}
    for key, parameters in tensors.items():
        numbers = torch.cat([parameter.detach().double().flatten() for parameter in parameters])
        trained = sum(parameter.requires_grad for parameter in parameters)
        rows[key] = [len(parameters), trained, float(numbers.mean()), root_mean_square(numbers)]
    perturbed(model.double().eval())
    logits = model(ids(2, LONG))
    logits.square().mean().backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    rows["logits"] = [root_mean_square(logits.detach()), root_mean_square(torch.cat(gradients))]
    return rows


def root_mean_square(numbers: torch.Tensor) -> float:
    return float(numbers.square().mean().sqrt())


@pytest.mark.parametrize("name", NAMES)
def test_variant(name: str) -> None:
    """Parameters, start values and logits are what they were."""
    rows, before = recorded(name), json.loads(FILE.read_text(encoding="utf-8"))[name]
    assert rows.keys() == before.keys()
    for key, row in rows.items():
        assert row == pytest.approx(
            before[key], rel=SAME if key == "logits" else START, abs=START * (key != "logits")
        ), key


if __name__ == "__main__":
    blocks = []
    for name in NAMES:
        lines = (f' "{key}": {json.dumps(row)}' for key, row in recorded(name).items())
        blocks.append(f'"{name}": {{\n' + ",\n".join(lines) + "\n}")
    FILE.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")
