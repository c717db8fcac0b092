"""Folders of transformers' models: loaded whole and safely or refused in a line, with the labels of any script."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.interchange.foreign.models import save, tiny

from attnlab.errors import UsageError
from attnlab.interchange.foreign.loading import fetched, load_foreign, run_name, step_of

pytest.importorskip("transformers", reason="transformers is not installed: pip install -e '.[hf]'")
pytestmark = pytest.mark.filterwarnings("ignore")
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save("gpt2", tmp_path / "model")


def change_config(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def change_weights(folder: Path, changed: Any) -> None:
    tensors = load_file(folder / WEIGHTS)
    changed(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def code(folder: Path) -> None:
    """A config that names code of the folder, which leaves a trace if it runs."""
    (folder / "evil.py").write_text(
        f"open({str(folder / 'ran')!r}, 'w')\nfrom transformers import GPT2Config as Evil\n"
    )
    change_config(folder, model_type="evil", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


HOSTILE = {
    "not there": (lambda f: f.rename(f.parent / "other"), "is no folder; download=true with revision="),
    "empty": (lambda f: [path.unlink() for path in f.iterdir()], "holds no config.json"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
    "pickle": (
        pickled,
        "pytorch_model.bin, a pickle, which could run code and is not read",
    ),
    "cut off": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:999]),
        "is not a whole safetensors file",
    ),
    "huge header": (
        lambda f: (f / WEIGHTS).write_bytes((10**10).to_bytes(8, "little") + b"{"),
        "its header of 10,000,000,000 bytes",
    ),
    "missing tensor": (
        lambda f: change_weights(f, lambda t: t.pop("transformer.h.1.attn.c_attn.weight")),
        "lacks transformer.h.1.attn.c_attn.weight",
    ),
    "other shape": (lambda f: change_config(f, n_embd=16), "holds in another shape transformer.h.0.attn.c_attn.bias"),
    "not a number": (
        lambda f: change_weights(f, lambda t: t["transformer.ln_f.weight"].fill_(float("nan"))),
        "transformer.ln_f.weight holds numbers that are not finite",
    ),
    "code": (code, "it needs code that lies in the folder; allow_code=true runs it, if you trust it"),
    "no tokenizer": (
        lambda f: [path.unlink() for path in f.glob("tokenizer*")],
        "holds no tokenizer: none of tokenizer*",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_folder(folder: Path, name: str) -> None:
    """What cannot be loaded whole is refused in a line that names the folder, and nothing of it runs."""
    spoil, reason = HOSTILE[name]
    spoil(folder)
    with pytest.raises(UsageError) as refusal:
        load_foreign(folder)
    text = str(refusal.value)
    assert reason in text and len(text.splitlines()) == 1 and len(text) < 500
    assert not (folder / "ran").exists()


def test_weights_are_those_of_the_folder(folder: Path) -> None:
    """The model computes what was stored, with its attention written out."""
    loaded = load_foreign(folder)
    ids = torch.tensor([loaded.tokenizer("abc")["input_ids"]])
    torch.testing.assert_close(loaded.model(ids).logits, tiny("gpt2")(ids).logits)
    assert loaded.model.config._attn_implementation == "eager" and loaded.model.dtype == torch.float32
    assert (loaded.name, loaded.step) == ("model", 0)


@pytest.mark.parametrize(("text", "labels"), [("a b", ["a", "·", "b"]), ("🐐", ["\\xf0", "\\x9f", "\\x90", "\\x90"])])
def test_labels(folder: Path, text: str, labels: list[str]) -> None:
    """Tokens are labelled by what they stand for: bytes of a character that is cut are spelt."""
    loaded = load_foreign(folder)
    assert loaded.inspect(text).parts[""].tokens == labels


@pytest.mark.parametrize("text", ["مرحبا يا عالم", "山羊坐在那里", "naïve café 🐐👍🏽", "a\u202eb\x00", "x" * 512])
def test_scripts(folder: Path, text: str) -> None:
    """Any script and 512 tokens are shown."""
    maps = load_foreign(folder).inspect(text).parts[""]
    assert len(maps.tokens) == len(text.encode()) == maps.layers[0].weights.shape[1]


def test_prompts_refused(folder: Path) -> None:
    """Texts that the model cannot read, before it computes."""
    loaded = load_foreign(folder)
    for text, n in (("x" * 513, 513), ("", 0)):
        with pytest.raises(UsageError, match=rf"prompt \({n} tokens\) must hold at least one token and no more than"):
            loaded.inspect(text)
    with pytest.raises(UsageError, match=r"hf \(model\) takes no target: it has no decoder beside an encoder"):
        loaded.inspect("a", "b")


def test_target(tmp_path: Path) -> None:
    """A decoder begins with its start token, and needs a text to read."""
    loaded = load_foreign(save("t5", tmp_path / "t5"))
    cross = loaded.inspect("ab", "xyz").parts["decoder.EncDecAttention"]
    assert (cross.tokens, cross.keys, cross.text) == (["<pad>", "x", "y"], ["a", "b"], "ab → xyz")
    with pytest.raises(UsageError, match=r"hf \(t5\) needs a target= besides: it has a decoder beside its encoder"):
        loaded.inspect("ab")


def test_names_and_steps(tmp_path: Path) -> None:
    """A checkpoint is called after its training, and takes its tokenizer from beside it."""
    checkpoint = save("gpt2", tmp_path / "mine" / "checkpoint-70")
    for path in checkpoint.glob("tokenizer*"):
        path.rename(checkpoint.parent / path.name)
    assert (run_name(checkpoint), step_of(checkpoint)) == ("mine", 70)
    (checkpoint / "trainer_state.json").write_text('{"global_step": 69}')
    loaded = load_foreign(checkpoint)
    assert (loaded.name, loaded.step) == ("mine", 69)
    assert step_of(tmp_path) is None


def test_download_needs_a_revision() -> None:
    """Nothing is fetched that is not pinned."""
    with pytest.raises(UsageError, match=r"hf \(a/b\): download=true needs revision="):
        fetched("a/b", None)
