"""Every key of every type's config.json, moved to other values and left out: what is not refused is the same model."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.interchange.test_table import model_of
from tests.interchange.tiny import TYPES, VOCAB, save_as_published, save_tokenizer

from attnlab.errors import UsageError
from attnlab.interchange.hf_import import read_model

# Of the largest: their rotations and some norms are float32 whatever the type, and norms of a few nearly equal numbers
# make more of that. What a key that is not acted upon makes is above 1e-3.
CLOSE = 1e-4
# What only says what the folder is, what another tokenizer would have to follow, what would cost time, and what makes
# transformers divide weights that it has just loaded.
APART = {
    *("model_type", "architectures", "transformers_version", "dtype", "torch_dtype", "vocab_size", "layer_types"),
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "max_seq_len"),
    "rescale_prenorm_residual",
}
ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu", "gelu_pytorch_tanh", "relu2")
PARTS = ("phi, normed queries", "qwen2, windows", "falcon, new", "stablelm, parallel")  # that are off by default
PLAIN = [name for name in TYPES if "," not in name or name in PARTS]


def others(key: str, value: Any) -> list[Any]:
    """Values that may be tried in the place of one."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value * 2, 1 if isinstance(value, int) else 0.5] if value else [1]
    if isinstance(value, str):
        return [name for name in ACTIVATIONS if name != value] if "act" in key else []
    return [1, 2, 0.5, True] if value is None and "token" not in key else []


def models(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is tried, in words, with the settings of the type that it takes."""
    from transformers import AutoConfig

    model_type, settings = TYPES[name]
    for key, value in AutoConfig.for_model(model_type, **settings).to_dict().items():
        if key not in APART:
            yield from ((f"{key}={other!r}", {**settings, key: other}) for other in others(key, value))


def save(model_type: str, settings: dict[str, Any], folder: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    if model_type == "olmo_hybrid":
        save_as_published(folder, config)
    save_tokenizer(folder)


def outcome(folder: Path) -> str:
    """Whether a folder is a model to them, refused by us, or the same to both."""
    from transformers import AutoModelForCausalLM

    ids = torch.randint(2, VOCAB, (2, 13), generator=torch.Generator().manual_seed(1))
    try:
        theirs = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float64).eval()
        with torch.no_grad():
            expected = theirs(ids).logits
    except Exception:
        return "no model"
    try:
        ours = model_of(read_model(folder))
    except UsageError:
        return "refused"
    with torch.no_grad():
        logits = ours(ids)
    is_same = logits.shape == expected.shape and (logits - expected).abs().max() <= CLOSE * expected.abs().max()
    return "same" if is_same else "differs"


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
def test_moved(name: str, tmp_path: Path) -> None:
    """A key at another value."""
    count: Counter[str] = Counter()
    for i, (text, settings) in enumerate(models(name)):
        try:
            save(TYPES[name][0], settings, tmp_path / str(i))
        except Exception:  # what their own code refuses, or cannot do
            continue
        count[result := outcome(tmp_path / str(i))] += 1
        assert result != "differs", text
    assert count["same"] > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
def test_left_out(name: str, tmp_path: Path) -> None:
    """A key that is not there is what it is to them."""
    save(*TYPES[name], tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    count: Counter[str] = Counter()
    for key in content.keys() - {"model_type"}:
        (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in content.items() if k != key}))
        count[result := outcome(tmp_path)] += 1
        assert result != "differs", key
    assert count["same"] > 5


def test_bites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is read and not acted upon is noticed."""
    from attnlab.interchange.families import registry
    from attnlab.interchange.families.keys_of_config import Unused

    family = registry.FAMILIES["granite"]
    rest = [key for key in family.keys if key.theirs != "residual_multiplier"]
    broken = replace(family, keys=(*rest, Unused(("residual_multiplier",))))
    monkeypatch.setitem(registry.FAMILIES, "granite", broken)
    save(*TYPES["granite"], tmp_path)
    assert outcome(tmp_path) == "differs"
