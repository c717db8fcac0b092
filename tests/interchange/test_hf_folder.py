"""Folders that are damaged, or that somebody has made to harm: refused in one line, and nothing is written."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.interchange.by_hand import numbers, write_llama

from attnlab.errors import UsageError
from attnlab.interchange.hf_folder import HFFolder
from attnlab.interchange.hf_import import import_folder, read_model

Breaks = Callable[[Path], object]


def header(folder: Path, entries: str, length: int | None = None, data: bytes = b"") -> None:
    """A safetensors file with this header, which may lie about its own length."""
    text = entries.encode()
    claimed = struct.pack("<Q", len(text) if length is None else length)
    (folder / "model.safetensors").write_bytes(claimed + text + data)


def in_shards(folder: Path, weight_map: dict[str, str], **files: list[str]) -> None:
    (folder / "model.safetensors").unlink()
    for file, names in files.items():
        save_file({name: numbers()[name] for name in names}, folder / f"{file}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def renamed(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)


def linked(folder: Path, name: str, target: Path) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(target)


def piped(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)


def with_tensor(name: str, tensor: torch.Tensor) -> Breaks:
    return lambda folder: write_llama(folder, {**numbers(), name: tensor})


NAMES = list(numbers())
NORM = "model.norm.weight"
DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
BROKEN: dict[str, tuple[Breaks, str]] = {
    "pickle": (lambda f: renamed(f, "pytorch_model.bin"), "a pickle, which could run code"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds no model.safetensors"),
    "no config": (lambda f: (f / "config.json").unlink(), "holds no config.json"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
    "config is a list": (lambda f: (f / "config.json").write_text("[1]"), "must hold settings by name"),
    "config of 2 MB": (lambda f: (f / "config.json").write_text("{" + " " * 2**21 + "}"), "larger than"),
    "config is deep": (lambda f: (f / "config.json").write_text(DEEP), "nested too deeply"),
    "config is nested": (lambda f: write_llama(f, extra=json.loads('{"a":' * 30 + "1" + "}" * 30)), "at most 16 deep"),
    "config is a pipe": (lambda f: piped(f, "config.json"), "not a regular file"),
    "config is a device": (lambda f: linked(f, "config.json", Path("/dev/zero")), "leads out of the folder"),
    "config leads out": (lambda f: linked(f, "config.json", Path("/etc/hostname")), "leads out of the folder"),
    "weights are a pipe": (lambda f: piped(f, "model.safetensors"), "not a regular file"),
    "weights lead in a circle": (lambda f: linked(f, "model.safetensors", f / "model.safetensors"), "cannot be read"),
    "header of 10 GB": (lambda f: header(f, "{}", 10**10), "its header of 10,000,000,000 bytes"),
    "header beyond the file": (lambda f: header(f, "{}", 10**6), "not a whole safetensors file"),
    "header is no JSON": (lambda f: header(f, "{{"), "not a whole safetensors file"),
    "an empty file": (lambda f: (f / "model.safetensors").write_bytes(b""), "not a whole safetensors file"),
    "a tensor of 10^30 numbers": (
        lambda f: header(f, '{"a":{"dtype":"F32","shape":[1000000000000000,1000000000000000],"data_offsets":[0,4]}}'),
        "not a whole safetensors file",
    ),
    "a tensor twice": (
        lambda f: header(
            f,
            '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
            data=b"\0" * 8,
        ),
        "not a whole safetensors file",
    ),
    "cut off": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-8]),
        "not a whole safetensors file",
    ),
    "a shard is missing": (lambda f: in_shards(f, dict.fromkeys(NAMES, "a.safetensors")), "holds no a.safetensors"),
    "a shard lies outside": (lambda f: in_shards(f, dict.fromkeys(NAMES, "../a.safetensors")), "which is no safetens"),
    "a shard lies anywhere": (lambda f: in_shards(f, dict.fromkeys(NAMES, "/etc/a.safetensors")), "which is no safe"),
    "a shard is a pickle": (lambda f: in_shards(f, dict.fromkeys(NAMES, "a.bin")), "which is no safetensors file"),
    "a shard lacks a tensor": (
        lambda f: in_shards(f, dict.fromkeys(NAMES, "a.safetensors"), a=NAMES[1:]),
        f"says that {NAMES[0]} stands in a.safetensors",
    ),
    "a tensor in two shards": (
        lambda f: in_shards(f, {**dict.fromkeys(NAMES, "a.safetensors"), NORM: "b.safetensors"}, a=NAMES, b=[NORM]),
        "stands in a.safetensors and in b.safetensors",
    ),
    "a wrong shape": (with_tensor(NORM, torch.zeros(9)), r"is \(9,\), and its config asks for \(8,\)"),
    "another type": (with_tensor(NORM, torch.zeros(8, dtype=torch.int64)), "is of type I64"),
    "float8": (with_tensor(NORM, torch.zeros(8).to(torch.float8_e4m3fn)), "is of type F8_E4M3"),
    "float64 that is more": (with_tensor(NORM, torch.full((8,), 0.1, dtype=torch.float64)), "that float32 does not"),
    "not a number": (with_tensor(NORM, torch.full((8,), torch.nan)), "not finite"),
    "infinite": (with_tensor(NORM, torch.full((8,), torch.inf)), "not finite"),
    "one too many": (with_tensor("model.other", torch.zeros(8)), "for which its config has no use"),
    "one too few": (lambda f: write_llama(f, num_hidden_layers=2), "holds no tensor model.layers.1"),
    "a billion layers": (lambda f: write_llama(f, num_hidden_layers=10**9), "num_hidden_layers"),
    "ten thousand layers": (lambda f: write_llama(f, num_hidden_layers=10**4), "more than there are tensors"),
    "huge": (
        lambda f: write_llama(f, hidden_size=2**40, num_attention_heads=2**39),
        "and its config asks for|no model",
    ),
    "a size that is no number": (
        lambda f: write_llama(f, hidden_size="8"),
        r"hidden_size \(\"8\"\) must be an integer",
    ),
    "a size that is nothing": (lambda f: write_llama(f, hidden_size=...), "hidden_size .* is missing"),
    "a type that is not ours": (lambda f: write_llama(f, model_type="bert"), r"model_type \(bert\) is not among"),
    "a type that is no text": (lambda f: write_llama(f, model_type=["llama"]), "model_type .* is not among"),
    "a key of somebody's": (lambda f: write_llama(f, my_trick=1), r"my_trick \(1\) is not understood"),
    "quantised": (lambda f: write_llama(f, quantization_config={"bits": 4}), "quantization_config"),
    "scaling that changes": (
        lambda f: write_llama(f, rope_scaling={"rope_type": "dynamic", "factor": 2.0}),
        r"rope_type \(dynamic\) cannot be expressed",
    ),
    "heads that do not divide": (lambda f: write_llama(f, num_attention_heads=3), "n_heads"),
    "an unknown activation": (lambda f: write_llama(f, hidden_act="xielu"), r"hidden_act \(xielu\) must be among"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_refused(name: str, tmp_path: Path) -> None:
    """In one line that says what is wrong; the run folder does not appear, nor anything beside it."""
    broken, message = BROKEN[name]
    (home := tmp_path / "home").mkdir()
    broken(write_llama(tmp_path / "hf"))
    with pytest.raises(UsageError, match=message) as error:
        import_folder(tmp_path / "hf", home / "run")
    assert "\n" not in str(error.value) and len(str(error.value)) < 700
    assert list(home.iterdir()) == []


def test_code_is_not_run(tmp_path: Path) -> None:
    """A folder's own code is neither read nor asked for."""
    trap = "raise SystemExit('it ran')"
    folder = write_llama(tmp_path / "hf", auto_map={"AutoModelForCausalLM": "modeling.Model"})
    (folder / "modeling.py").write_text(trap)
    (folder / "tokenization.py").write_text(trap)
    assert read_model(folder).weights


def test_own_script(tmp_path: Path) -> None:
    """Names without their first part and buffers that hold nothing learned are no obstacle."""
    tensors = {name.removeprefix("model."): tensor for name, tensor in numbers().items()}
    tensors["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    plain, own = read_model(write_llama(tmp_path / "a")), read_model(write_llama(tmp_path / "b", tensors))
    assert all(torch.equal(tensor, own.weights[name]) for name, tensor in plain.weights.items())


def test_tied(tmp_path: Path) -> None:
    """A head that repeats the embedding is it; one that does not is refused, for one of the two would be lost."""
    same = {**numbers(), "lm_head.weight": numbers()["model.embed_tokens.weight"].clone()}
    assert "head.weight" not in read_model(write_llama(tmp_path, same, tie_word_embeddings=True)).weights
    with pytest.raises(UsageError, match="is not the embedding"):
        read_model(write_llama(tmp_path, tie_word_embeddings=True))


def test_cache_of_the_hub(tmp_path: Path) -> None:
    """Its folders hold links to files beside them, in blobs."""
    folder = write_llama(tmp_path / "whole")
    (snapshot := tmp_path / "model" / "snapshots" / "0123").mkdir(parents=True)
    (blobs := tmp_path / "model" / "blobs").mkdir()
    for i, file in enumerate(sorted(folder.iterdir())):
        file.rename(blobs / str(i))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(i))
    assert read_model(snapshot).weights


def test_shards(tmp_path: Path) -> None:
    """Several files are as one."""
    whole = HFFolder(write_llama(tmp_path / "a"))
    folder = write_llama(tmp_path / "b")
    files = {"a": NAMES[:5], "b": NAMES[5:]}
    in_shards(folder, {name: f"{file}.safetensors" for file, names in files.items() for name in names}, **files)
    sharded = HFFolder(folder)
    assert sharded.names == whole.names and {*sharded.sha256} == {"a.safetensors", "b.safetensors"}
    assert all(torch.equal(whole.tensor(name), sharded.tensor(name)) for name in NAMES)
