"""Records: exact in float16, readable by TensorBoard's own loaders, whole on disk."""

import json
import shlex
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from tests.inspection.event_records import read_records
from torch.utils.tensorboard import SummaryWriter

from attnlab.errors import UsageError
from attnlab.inspection import records
from attnlab.inspection.figures import draw_layer, to_png
from attnlab.inspection.records import (
    LayerMap,
    Record,
    Sentence,
    decode,
    encode,
    half,
    image_summary,
    load_maps,
    record_summary,
    save_maps,
    tensorboard_command,
)


def record(step: int = 400, *, causal: bool = True, norms: bool = True, seed: int = 0) -> Record:
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(3, 5, 5))
    return Record(
        step=step,
        layer=2,
        kind="signed",
        probe="prompt",
        text='Grüße, "you"',
        tokens=["Gr", "\\xfc", "·", "日", "\n"],
        weights=half(np.tril(weights) if causal else weights),
        value_norm=half(rng.uniform(size=(3, 5))) if norms else None,
    )


def assert_same(a: Record, b: Record) -> None:
    assert a[:6] == b[:6] and (a.keys, a.causal) == (b.keys, b.causal)
    for x, y in ((a.weights, b.weights), (a.value_norm, b.value_norm)):
        assert (x is None) == (y is None)
        if x is not None and y is not None:
            assert x.dtype == y.dtype == np.float16 and x.shape == y.shape
            assert (x.view(np.uint16) == y.view(np.uint16)).all()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("norms", [True, False])
def test_decoding_gives_back_every_bit(causal: bool, norms: bool) -> None:
    original = record(causal=causal, norms=norms)
    assert_same(decode(*encode(original)), original)


def test_cross_record() -> None:
    """Tokens that read others, and later ones, come back; the header says so, and a zero above the diagonal stays."""
    original = record()._replace(keys=["a", "b", "c", "d", "e"], causal=False)
    header, numbers = encode(original)
    assert json.loads(header)["layout"] == "full" and json.loads(header)["keys"] == original.keys
    assert_same(decode(header, numbers), original)


def test_the_layout_is_the_documented_one() -> None:
    original = record()
    header, numbers = encode(original)
    said = json.loads(header)
    assert said == {
        "format": 1,
        "layer": 2,
        "step": 400,
        "kind": "signed",
        "probe": "prompt",
        "text": 'Grüße, "you"',
        "tokens": ["Gr", "\\xfc", "·", "日", "\n"],
        "shape": [3, 5, 5],
        "layout": "lower",
        "value_norm": True,
    }
    flat = np.frombuffer(zlib.decompress(numbers), dtype="<f2")
    assert flat.size == 3 * 15 + 3 * 5
    assert flat[15 + 3] == original.weights[1, 2, 0]  # head 1: rows 0 and 1 hold three numbers
    assert flat[45 + 5] == original.value_norm[1, 0]


def test_special_numbers_survive() -> None:
    weights = np.zeros((1, 2, 2), dtype=np.float16)
    weights[0, 1] = [np.nan, 6e-8]
    assert_same(
        decode(*encode(record()._replace(weights=weights, tokens=["a", "b"], value_norm=None))),
        record()._replace(weights=weights, tokens=["a", "b"], value_norm=None),
    )
    assert half(np.array([1e9, -1e9, 0.5])).tolist() == [65504, -65504, 0.5]
    assert np.isnan(half(np.array([np.nan]))).all()


def test_another_format_is_refused() -> None:
    header, numbers = encode(record())
    with pytest.raises(UsageError, match="has format 2, but this attnlab reads format 1"):
        decode(header.replace(b'"format":1', b'"format":2'), numbers)


def test_tensorboard_reads_back_what_was_written(tmp_path: Path) -> None:
    writer = SummaryWriter(tmp_path)
    picture = draw_layer(np.tril(np.ones((1, 2, 2), dtype=np.float32)), "probability", ["a", "b"], "t")
    originals = [record(step, seed=step) for step in range(30)]
    for original in originals:
        writer.file_writer.add_summary(record_summary(original), original.step)
        writer.file_writer.add_summary(image_summary("attention/layer_00", to_png(picture)), original.step)
    writer.close()

    found = list(read_records(tmp_path))
    assert len(found) == 30
    for original, again in zip(originals, found, strict=True):
        assert_same(original, again)

    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0, "images": 0})
    events.Reload()
    assert events.PluginTagToContent("attention") == {"maps/prompt/layer_02": b'{"format": 1}'}
    tensors = events.Tensors("maps/prompt/layer_02")
    assert [t.step for t in tensors] == list(range(30))
    header, numbers = make_ndarray(tensors[7].tensor_proto).tolist()
    assert_same(decode(header, numbers), originals[7])
    images = events.Images("attention/layer_00")
    assert [i.step for i in images] == list(range(30))
    assert (images[0].width, images[0].height) == picture.size and images[0].encoded_image_string[:4] == b"\x89PNG"


def test_size_of_a_record() -> None:
    """A record of 4 heads and 32 tokens is a few kilobytes."""
    scores = np.random.default_rng(0).normal(size=(4, 32, 32))
    scores[:, *np.triu_indices(32, 1)] = -np.inf
    weights = np.exp(scores)
    weights /= weights.sum(axis=-1, keepdims=True)
    small = record()._replace(weights=half(weights), value_norm=half(np.ones((4, 32))), tokens=["·token"] * 32)
    assert record_summary(small).ByteSize() < 6000  # 4 * 528 + 4 * 32 numbers of two bytes, and the header


def sentences() -> list[Sentence]:
    rng = np.random.default_rng(1)
    made = []
    for name, labels in (("probe", ["a", "·b"]), ("prompt", ["日", "c", "\n"])):
        t = len(labels)
        layers = [
            LayerMap(0, "probability", rng.uniform(size=(2, t, t)).astype(np.float32), None),
            LayerMap(1, "none", None, None),
            LayerMap(2, "signed", -np.ones((1, t, t), dtype=np.float32), np.ones((1, t), dtype=np.float32)),
        ]
        made.append(Sentence(name, f"text of {name}", labels, layers))
    return made


def test_a_file_of_maps_gives_back_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "maps" / "last.safetensors"
    save_maps(path, sentences(), step=400, run="multi_head-1a2b/seed_0")
    found = load_maps(path)
    assert (found.run, found.step) == ("multi_head-1a2b/seed_0", 400)
    for original, again in zip(sentences(), found.sentences, strict=True):
        assert original[:3] == again[:3]
        for a, b in zip(original.layers, again.layers, strict=True):
            assert a[:2] == b[:2]
            for x, y in zip(a[2:], b[2:], strict=True):
                np.testing.assert_equal(x, y)
    assert [p.name for p in path.parent.iterdir()] == ["last.safetensors"]  # no temporary file is left


def test_documented_format(tmp_path: Path) -> None:
    """Names and metadata of the file are the documented ones."""
    from safetensors import safe_open

    save_maps(tmp_path / "m.safetensors", sentences(), step=400, run="r")
    with safe_open(str(tmp_path / "m.safetensors"), framework="numpy") as file:
        assert set(file.keys()) == {
            "probe0/layer_00",
            "probe0/layer_02",
            "probe0/layer_02/value_norm",
            "probe1/layer_00",
            "probe1/layer_02",
            "probe1/layer_02/value_norm",
        }
        metadata = file.metadata()
    assert metadata["step"] == "400" and metadata["run"] == "r"
    assert json.loads(metadata["tokens"]) == [["a", "·b"], ["日", "c", "\n"]]
    assert json.loads(metadata["kinds"]) == [["probability", "none", "signed"]] * 2


def test_unreadable_files(tmp_path: Path) -> None:
    """A missing a damaged and a foreign file are refused."""
    with pytest.raises(UsageError, match=r"nothing\.safetensors does not exist"):
        load_maps(tmp_path / "nothing.safetensors")
    save_maps(tmp_path / "m.safetensors", sentences(), step=1, run="")
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "m.safetensors").read_bytes()[:200])
    with pytest.raises(UsageError, match=r"half\.safetensors is damaged"):
        load_maps(tmp_path / "half.safetensors")
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=r"other\.safetensors is not a file of maps"):
        load_maps(tmp_path / "other.safetensors")


def test_the_tensorboard_command_keeps_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(tensorboard_command(tmp_path / "my runs"))
    assert words[-4:] == ["--logdir", "my runs", "--samples_per_plugin", "images=1000,attention=1000"]


def test_tensorboard_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The TensorBoard command names a program that exists."""
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(bin_folder / "python"))
    monkeypatch.setattr(records.shutil, "which", lambda name: None)
    assert tensorboard_command("runs").startswith(".venv/bin/python -m tensorboard.main --logdir runs ")
    (bin_folder / "tensorboard").touch()
    assert tensorboard_command("runs").startswith(".venv/bin/tensorboard --logdir runs ")
    monkeypatch.setattr(records.shutil, "which", lambda name: str(bin_folder / "tensorboard"))
    assert tensorboard_command("runs").startswith("tensorboard --logdir runs ")
