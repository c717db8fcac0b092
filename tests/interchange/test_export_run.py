"""Runs in the layout of a type of Hugging Face's: imports go out as they came, runs of ours open as what they are."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file
from tests.interchange.tiny import save_tiny

from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.data.tokenizers import ByteTokenizer
from attnlab.interchange.export_run import exported
from attnlab.interchange.hf_import import import_folder
from attnlab.laws.subject import perturbed
from attnlab.runs import load as load_run
from attnlab.runs import read_config
from attnlab.store.run_folder import RunFolder

OURS = {
    "llama": "attention=gqa model.norm=rms model.mlp=swiglu",
    "qwen3": "attention=qk_norm model.norm=rms model.mlp=swiglu",
    "mistral": "attention=sliding_window model.norm=rms model.mlp=swiglu model.tie=false",
    "mpt": "attention=multi_head position=alibi model.norm=layer model.mlp=gelu",
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("name", ["gpt2", pytest.param("gemma2", marks=pytest.mark.slow)])
def test_import_goes_out_as_it_came(name: str, tmp_path: Path) -> None:
    """In bfloat16: every tensor and the logits, bit for bit; a folder without code."""
    from transformers import AutoModelForCausalLM

    save_tiny(name, tmp_path / "theirs", torch.bfloat16)
    run = import_folder(tmp_path / "theirs", tmp_path / "run")
    files = exported(run, read_config(run), *load_run(run), to="hf")
    theirs, ours = load_file(tmp_path / "theirs" / "model.safetensors"), load(files["model.safetensors"])
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[n], ours[n]) for n in theirs)
    assert all(ours[n].dtype == torch.bfloat16 for n in ours)
    ids = torch.arange(12)[None]
    models = [
        AutoModelForCausalLM.from_pretrained(f).eval() for f in (write(tmp_path / "out", files), tmp_path / "theirs")
    ]
    with torch.no_grad():
        assert torch.equal(*(model(ids).logits for model in models)) and models[0].dtype == torch.bfloat16
    assert not any(file.endswith(".py") for file in files)


@pytest.mark.parametrize(
    "model_type", ["qwen3", *(pytest.param(n, marks=pytest.mark.slow) for n in OURS if n != "qwen3")]
)
def test_run_of_ours(model_type: str, tmp_path: Path) -> None:
    """It is of the type that its settings say, without code; logits and text are ours, and no id ends a text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    sizes = ("model.d_model=32", "model.n_heads=4", "model.n_layers=2", "model.context=32", "model.dropout=0")
    config = compose_config([*OURS[model_type].split(), *sizes])
    model = build_model(config, 256).eval()
    perturbed(model)
    files = exported(RunFolder(tmp_path / "no run"), config, model, ByteTokenizer(), to="hf")
    folder = write(tmp_path / "out", files)
    assert json.loads(files["config.json"])["model_type"] == model_type
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)("Nobody opens the box.", return_tensors="pt").input_ids
    with torch.no_grad():
        logits, own = theirs(ids).logits, model(ids)
    assert theirs.generation_config.eos_token_id is None
    assert (logits - own).abs().max() <= 1e-5 * own.abs().max()
