"""A real model: what glassllm (MIT) trained on Carroll and Machado de Assis, against its own NumPy forward pass."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from attnlab.build import build_model
from attnlab.inspection.head_ablation import ablate, loss_of
from attnlab.interchange.hf_import import import_folder, read_model
from attnlab.model import GPT
from attnlab.runs import load

glassllm = pytest.importorskip("glassllm", reason="the extra oracle brings it")
TEXTS = {
    "en": "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do.",
    "pt": "Algum tempo hesitei se devia abrir estas memórias pelo princípio ou pelo fim.",
}
CLOSE = 1e-6
FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
SPLIT = {"behavior": "Isolated", "invert": False}


def write(language: str, folder: Path) -> tuple[Any, Any]:
    """The model as a Llama of Hugging Face's; gives it as glassllm loads it, in float64, and its tokenizer."""
    from glassllm.model import GlassLM
    from glassllm.tokenizer import SPECIALS, Tokenizer

    home = Path(glassllm.__file__).parent / "weights"
    theirs = GlassLM.load(home / f"{language}.npz", dtype=np.float64)
    config = theirs.cfg
    content = {
        **{"model_type": "llama", "vocab_size": config.vocab_size, "hidden_size": config.d_model},
        **{"num_hidden_layers": config.n_layers, "num_attention_heads": config.n_heads, "rms_norm_eps": config.eps},
        **{"num_key_value_heads": config.n_kv_heads, "max_position_embeddings": config.max_len},
        **{"intermediate_size": int(8 * config.d_model / 3), "tie_word_embeddings": True, "torch_dtype": "float16"},
    }
    (folder / "config.json").write_text(json.dumps(content))
    names = {
        **{"E": "embed_tokens", "norm_f.gamma": "norm", "norm1.gamma": "input_layernorm"},
        **{"norm2.gamma": "post_attention_layernorm", "ffn.W1": "mlp.gate_proj", "ffn.W3": "mlp.up_proj"},
        **{"ffn.W2": "mlp.down_proj", **{f"attn.W_{n.upper()}": f"self_attn.{n}_proj" for n in "qkvo"}},
    }
    tensors = {}
    for name, parameter in theirs.named_parameters().items():
        tensor = torch.from_numpy(parameter.data).half()
        layer, _, inner = name.removeprefix("blocks.").partition(".") if name.startswith("blocks.") else ("", "", name)
        if ".W" in inner:
            tensor = tensor.T
        if inner in ("attn.W_Q", "attn.W_K"):  # it rotates neighbours, a Llama of Hugging Face's halves
            tensor = tensor.unflatten(0, (-1, 16, 2)).transpose(1, 2).flatten(0, 2)
        tensors[f"model.{f'layers.{layer}.' if layer else ''}{names[inner]}.weight"] = tensor.contiguous()
    save_file(tensors, folder / "model.safetensors")
    tokenizer = Tokenizer.load(home / f"{language}.tokenizer.json")
    special = [{"id": i, "content": text, "special": True, **FLAGS} for i, text in enumerate(SPECIALS)]
    definition = {
        **{"version": "1.0", "added_tokens": special, "post_processor": None},
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "NFC"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}],
        },
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"\n|▁*[^▁\n]+|▁+"}, **SPLIT},
        "decoder": {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        "model": {
            **{"type": "BPE", "vocab": tokenizer.token_to_id, "unk_token": "<unk>"},
            "merges": [list(pair) for pair in tokenizer.merges],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    return theirs, tokenizer


@pytest.fixture(scope="module", params=TEXTS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, GPT, list[int]]:
    """Theirs and ours, in float64, and a text that both cut alike."""
    folder = tmp_path_factory.mktemp(request.param)
    theirs, tokenizer = write(request.param, folder)
    imported = read_model(folder)
    ours = build_model(imported.config, imported.tokenizer.n_vocab).double().eval()
    ours.load_state_dict({**imported.weights, "head.weight": imported.weights["embedding.weight"]})
    text = TEXTS[request.param]
    ids = imported.tokenizer.encode(text)
    assert ids == tokenizer.encode(text) and imported.tokenizer.decode(ids) == text
    return theirs, ours, ids


def close(ours: torch.Tensor, theirs: np.ndarray) -> bool:
    other = torch.from_numpy(theirs)
    return bool((ours - other).abs().max() <= CLOSE * other.abs().max())


def test_logits_and_maps(pair: Any) -> None:
    """Of the whole model, and of each head, by its own trace."""
    from glassllm.trace import Tracer

    theirs, ours, ids = pair
    trace = Tracer()
    logits = theirs.forward(ids, trace=trace).data
    with torch.no_grad():
        assert close(ours(torch.tensor([ids])), logits)
    for layer, own in enumerate(ours.attention_maps(torch.tensor([ids]))):
        assert own.weights is not None
        assert close(own.weights[0], trace.get("attn.softmax", layer).value)


def test_decoding(pair: Any) -> None:
    """Token by token, each from its own cache."""
    theirs, ours, ids = pair
    state, cache = ours.init_state(1, len(ids)), theirs.new_cache()
    for i, token in enumerate(ids):
        with torch.no_grad():
            logits, state = ours.step(torch.tensor([[token]]), state)
        assert close(logits, theirs.forward([token], cache=cache, start=i).data)


def test_heads_silenced(pair: Any) -> None:
    """A head without its output is one whose rows of the output projection are zero."""
    theirs, ours, ids = pair
    row = torch.tensor([ids])
    batches = [(row[:, :-1], row[:, 1:])]
    loss, effects = ablate(ours, batches)
    assert loss == pytest.approx(loss_of(ours, batches))
    own = {(effect.layer, effect.head): effect for effect in effects}
    for head in (0, 3):
        weight = theirs.blocks[1].attn.W_O
        whole = weight.data.copy()
        weight.data[head * 32 : (head + 1) * 32] = 0
        silenced = float(theirs.loss(ids[:-1], ids[1:]).data)
        weight.data[:] = whole
        assert own[1, head].zero == pytest.approx(silenced - loss, abs=CLOSE)


def test_run_folder(tmp_path: Path) -> None:
    """The run folder holds the same model, float16 read exactly."""
    (tmp_path / "hf").mkdir()
    theirs, _ = write("en", tmp_path / "hf")
    run = import_folder(tmp_path / "hf", tmp_path / "run")
    model, _ = load(run)
    assert model.n_parameters == sum(p.data.size for p in theirs.parameters())
    assert run.read_summary()["imported"]["dtype"] == "F16"
