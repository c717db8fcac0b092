"""nanoGPT's ckpt.pt and the book's GPT come in exactly, and what could run code does not."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.interchange.tiny import save_tokenizer
from torch import Tensor

from attnlab.build import build_model
from attnlab.errors import UsageError
from attnlab.interchange.families.torch_gpts import FROM_SCRATCH
from attnlab.interchange.hf_import import config_of, empty_model, import_file, read_file_of_torch
from attnlab.interchange.torch_file import TorchFile, read_meta
from attnlab.runs import load

N_LAYERS, N_HEADS, WIDTH, CONTEXT, VOCAB = 2, 2, 8, 16, 256
IDS = torch.randint(VOCAB, (2, 11), generator=torch.Generator().manual_seed(0))
ARGUMENTS = {
    **{"n_layer": N_LAYERS, "n_head": N_HEADS, "n_embd": WIDTH, "block_size": CONTEXT, "vocab_size": VOCAB},
    "dropout": 0.0,
}


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) * 0.4 for name, shape in shapes.items()}


def nanogpt(bias: bool) -> dict[str, Tensor]:
    """Tensors as nanoGPT's state_dict has them."""
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (VOCAB, WIDTH)}
    shapes |= {"transformer.wpe.weight": (CONTEXT, WIDTH), "transformer.ln_f.weight": (WIDTH,)}
    for i in range(N_LAYERS):
        h = f"transformer.h.{i}"
        shapes |= {f"{h}.ln_{n}.weight": (WIDTH,) for n in (1, 2)}
        shapes |= {f"{h}.attn.c_attn.weight": (3 * WIDTH, WIDTH), f"{h}.attn.c_proj.weight": (WIDTH, WIDTH)}
        shapes |= {f"{h}.mlp.c_fc.weight": (4 * WIDTH, WIDTH), f"{h}.mlp.c_proj.weight": (WIDTH, 4 * WIDTH)}
    biases = {n.replace("weight", "bias"): s[:1] for n, s in shapes.items() if "wte" not in n and "wpe" not in n}
    tensors = drawn({**shapes, **(biases if bias else {})})
    return {**tensors, "lm_head.weight": tensors["transformer.wte.weight"]}


def nanogpt_logits(w: dict[str, Tensor], ids: Tensor) -> Tensor:
    """What nanoGPT computes, written plainly."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w.get(f"{name}.bias"), 1e-5)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][: ids.size(1)]
    for i in range(N_LAYERS):
        h = f"transformer.h.{i}"
        parts = linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn").split(WIDTH, dim=-1)
        q, k, v = (t.unflatten(-1, (N_HEADS, -1)).transpose(1, 2) for t in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + linear(mixed, f"{h}.attn.c_proj")
        x = x + linear(F.gelu(linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")), f"{h}.mlp.c_proj")
    return norm(x, "transformer.ln_f") @ w["lm_head.weight"].T


def from_scratch(qkv_bias: bool) -> dict[str, Tensor]:
    """Tensors as the book's state_dict has them."""
    shapes: dict[str, tuple[int, ...]] = {"tok_emb.weight": (VOCAB, WIDTH), "pos_emb.weight": (CONTEXT, WIDTH)}
    for i in range(N_LAYERS):
        h = f"trf_blocks.{i}"
        shapes |= {f"{h}.att.W_{name}.weight": (WIDTH, WIDTH) for name in ("query", "key", "value")}
        shapes |= {f"{h}.att.W_{name}.bias": (WIDTH,) for name in ("query", "key", "value") if qkv_bias}
        shapes |= {f"{h}.att.out_proj.weight": (WIDTH, WIDTH), f"{h}.att.out_proj.bias": (WIDTH,)}
        shapes |= {f"{h}.ff.layers.0.weight": (4 * WIDTH, WIDTH), f"{h}.ff.layers.0.bias": (4 * WIDTH,)}
        shapes |= {f"{h}.ff.layers.2.weight": (WIDTH, 4 * WIDTH), f"{h}.ff.layers.2.bias": (WIDTH,)}
        shapes |= {f"{h}.norm{n}.{part}": (WIDTH,) for n in (1, 2) for part in ("scale", "shift")}
    shapes |= {"final_norm.scale": (WIDTH,), "final_norm.shift": (WIDTH,), "out_head.weight": (VOCAB, WIDTH)}
    masks = {f"trf_blocks.{i}.att.mask": torch.ones(CONTEXT, CONTEXT).triu(1) for i in range(N_LAYERS)}
    return drawn(shapes) | masks


def from_scratch_logits(w: dict[str, Tensor], ids: Tensor) -> Tensor:
    """What the book's GPT computes, written plainly."""

    def norm(x: Tensor, name: str) -> Tensor:
        variance, mean = torch.var_mean(x, dim=-1, keepdim=True, unbiased=False)
        return w[f"{name}.scale"] * (x - mean) / torch.sqrt(variance + 1e-5) + w[f"{name}.shift"]

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    x = w["tok_emb.weight"][ids] + w["pos_emb.weight"][: ids.size(1)]
    for i in range(N_LAYERS):
        h = f"trf_blocks.{i}"
        normed = norm(x, f"{h}.norm1")
        parts = (linear(normed, f"{h}.att.W_{name}") for name in ("query", "key", "value"))
        q, k, v = (t.unflatten(-1, (N_HEADS, -1)).transpose(1, 2) for t in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + linear(mixed, f"{h}.att.out_proj")
        wide = F.gelu(linear(norm(x, f"{h}.norm2"), f"{h}.ff.layers.0"), approximate="tanh")
        x = x + linear(wide, f"{h}.ff.layers.2")
    return linear(norm(x, "final_norm"), "out_head")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer").mkdir()
    save_tokenizer(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.mark.parametrize("bias", [False, True])
def test_nanogpt(bias: bool, tokenizer: Path, tmp_path: Path) -> None:
    """A checkpoint with its optimizer, of a compiled model and with masks, as its training leaves it."""
    tensors = nanogpt(bias)
    state = {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}
    masks = {f"_orig_mod.transformer.h.{i}.attn.bias": torch.ones(1, 1, 4, 4) for i in range(N_LAYERS)}
    content = {"model": {**state, **masks}, "optimizer": {"state": {}}, "model_args": {**ARGUMENTS, "bias": bias}}
    torch.save({**content, "iter_num": 7, "config": {"out_dir": "out"}}, tmp_path / "ckpt.pt")
    run = import_file(tmp_path / "ckpt.pt", tmp_path / "run", tokenizer=tokenizer)
    model, _ = load(run)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), nanogpt_logits(tensors, IDS), rtol=1e-5, atol=1e-5)
    assert run.read_summary()["imported"]["format"] == "torch"


@pytest.mark.parametrize(("qkv_bias", "top"), [(False, None), (True, "model_state_dict")])
def test_from_scratch(qkv_bias: bool, top: str | None, tokenizer: Path, tmp_path: Path) -> None:
    """The weights alone, or beside the optimizer's, as the book saves them in chapter 5."""
    tensors = from_scratch(qkv_bias)
    torch.save(tensors if top is None else {top: tensors}, tmp_path / "model.pth")
    with pytest.raises(UsageError, match="how many heads it has: add n_heads="):
        read_file_of_torch(tmp_path / "model.pth", tmp_path, tokenizer=tokenizer)
    imported = read_file_of_torch(tmp_path / "model.pth", tmp_path, tokenizer=tokenizer, n_heads=N_HEADS)
    model = build_model(imported.config, VOCAB)
    model.load_state_dict(imported.weights)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), from_scratch_logits(tensors, IDS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("tied", "parameters"), [(True, 124_412_160), (False, 163_009_536)])
def test_the_book_counts(tied: bool, parameters: int) -> None:
    """The parameters that chapter 4 prints, with the head's own matrix and without."""
    sizes: dict[str, Any] = {"vocab_size": 50257, "context_length": 1024, "emb_dim": 768, "n_heads": 12, "n_layers": 12}
    settings = FROM_SCRATCH.settings({"model_type": "", **sizes, "qkv_bias": False, "tied": tied}, "")
    model = empty_model(config_of(settings, "gpt", {"_target_": "attnlab.data.vocabularies.Bytes"}, None), 50257)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_meta(tmp_path: Path) -> None:
    """nanoGPT's characters are ours; a pickle that names anything else is not executed."""
    signs = sorted("no\n é")
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"itos": dict(enumerate(signs)), "vocab_size": len(signs)}))
    assert read_meta(tmp_path / "meta.pkl").decode([0, 1, 2, 3, 4]) == "".join(signs)
    for content in (Trap(tmp_path / "ran"), {"itos": {0: "b", 1: "a"}}, {"itos": {1: "a"}}, 3):
        (tmp_path / "meta.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(UsageError, match=r"meta\.pkl"):
            read_meta(tmp_path / "meta.pkl")
    assert not (tmp_path / "ran").exists()


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda path: {"model": {}, "trap": Trap(path)}, "could run code"),
        (lambda path: [1], "must hold tensors by name"),
        (lambda path: {"model": {}}, "holds no tensors"),
        (lambda path: {"model": {"a": torch.ones(1)}}, "neither nanoGPT's"),
        (lambda path: {"model": nanogpt(False), "model_args": {**ARGUMENTS, "n_layer": 3, "bias": False}}, "no tensor"),
        (lambda path: {"model": nanogpt(True), "model_args": {**ARGUMENTS, "bias": False}}, "has no use"),
        (lambda path: {"model": nanogpt(False), "model_args": {**ARGUMENTS, "rotary": 1}}, "rotary .* not understood"),
        (lambda path: {"model": nanogpt(False), "model_args": {"n_layer": torch.ones(1)}}, "must hold numbers by name"),
    ],
)
def test_refused(content: Any, message: str, tokenizer: Path, tmp_path: Path) -> None:
    """In one line, before anything is written; nothing is executed."""
    torch.save(content(tmp_path / "ran"), tmp_path / "ckpt.pt")
    with pytest.raises(UsageError, match=message):
        import_file(tmp_path / "ckpt.pt", tmp_path / "run", tokenizer=tokenizer)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "run").exists()


def test_no_file(tmp_path: Path) -> None:
    """Bytes that are none of torch's, a folder, nothing at all."""
    (tmp_path / "text.pt").write_text("text")
    for path in (tmp_path / "text.pt", tmp_path, tmp_path / "none.pt"):
        with pytest.raises(UsageError, match="ckpt"):
            TorchFile(path)
