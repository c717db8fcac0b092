"""What attnlab exports with code, it reads again without it: any variant, bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.interchange.tiny import save_tokenizer

from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.errors import UsageError
from attnlab.interchange.hf_import import import_folder, read_model
from attnlab.interchange.own_export import MODEL_TYPE
from attnlab.interchange.remote_export import remote_config, remote_tensors
from attnlab.runs import load

SMALL = ("model.n_layers=2", "model.d_model=16", "model.n_heads=2", "model.context=16", "model.dropout=0")


def write(folder: Path, *overrides: str, **changes: Any) -> Any:
    """The data of an export, as it lies in a folder, and the model that was exported."""
    folder.mkdir(exist_ok=True)
    config = compose_config([*SMALL, *overrides])
    model = build_model(config, 256).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    content = remote_config(model, config, torch.float32) | changes
    assert content["model_type"] == MODEL_TYPE
    (folder / "config.json").write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
    (folder / "modeling_attnlab.py").write_text("raise SystemExit('it ran')")
    save_file(remote_tensors(model, torch.float32), folder / "model.safetensors")
    save_tokenizer(folder)
    return config, model


@pytest.mark.parametrize(
    "overrides",
    [
        ("attention=gated_delta", "model.tie=false"),
        ("attention=gemma3", "model.norm=rms"),
        ("attention=multi_head", "position=t5"),
        ("attention=multi_head", "position=learned"),
        ("attention=head_mix",),
    ],
)
def test_again(overrides: tuple[str, ...], tmp_path: Path) -> None:
    """Settings and weights are the same, and so are the logits of the run."""
    config, model = write(tmp_path / "hf", *overrides)
    imported = read_model(tmp_path / "hf")
    assert imported.config.model == config.model and imported.config.attention == config.attention
    assert imported.config.position.embed == config.position.embed
    own = dict(model.named_parameters())
    assert own.keys() == imported.weights.keys()
    assert all(torch.equal(tensor, own[name]) for name, tensor in imported.weights.items())
    again, _ = load(import_folder(tmp_path / "hf", tmp_path / "run"))
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(again(ids), model(ids))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": {"_target_": "os.system", "_partial_": True}}, "not allowed"),
        ({"attention": {"_target_": "attnlab.runs.load", "_partial_": True}}, "not allowed"),
        ({"embed": {"_target_": "mine.Embedding", "_partial_": True}}, "not allowed"),
        ({"model": {"d_model": 16}}, "model"),
        ({"model": 3}, "must hold settings by name"),
        ({"attention": ...}, "must hold settings by name"),
        ({"vocab_size": "many"}, "vocab_size .* must be an integer"),
        ({"vocab_size": 7}, "and its config asks for"),
    ],
)
def test_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A config that names other people's classes, or sizes that its tensors do not have."""
    write(tmp_path / "hf", **changes)
    with pytest.raises(UsageError, match=message):
        import_folder(tmp_path / "hf", tmp_path / "run")
    assert not (tmp_path / "run").exists()
