"""Maps of any module as files, pages and records hold them: parts, labels, kinds, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.interchange.foreign.models import inputs, tiny
from torch import Tensor, nn

import attnlab
from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.errors import UsageError
from attnlab.inspection.prompt_maps import load_prompt_maps
from attnlab.inspection.records import decode, encode
from attnlab.interchange.foreign.parts import Inspection

pytest.importorskip("transformers", reason="transformers is not installed: pip install -e '.[hf]'")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def translated() -> Inspection:
    return attnlab.inspect(tiny("t5"), inputs("t5", 6, 3), labels=list("abcdef"), name="t5", text="x", step=4)


def test_encoder_decoder(translated: Inspection) -> None:
    """An encoder that sees all, a decoder that sees what is before, and cross-attention, target x source."""
    encoder, decoder, cross = translated.parts.values()
    assert list(translated.parts) == ["encoder", "decoder.SelfAttention", "decoder.EncDecAttention"]
    assert (encoder.causal, decoder.causal, cross.causal) == (False, True, False)
    assert encoder.tokens == list("abcdef") and encoder.keys is None and decoder.keys is None
    assert (cross.tokens, cross.keys) == (decoder.tokens, list("abcdef"))
    assert cross.layers[1].weights.shape == (4, 3, 6) and encoder.layers[0].kind == "probability"
    assert encoder.layers[0].value_norm.shape == (4, 6)  # type: ignore[union-attr]


def test_cross_of_equal_lengths() -> None:
    """Cross-attention is told from a decoder's own where both texts are of one length."""
    parts = attnlab.inspect(tiny("t5"), inputs("t5", 4, 4), labels=list("abcd"), target_labels=list("wxyz")).parts
    cross = parts["decoder.EncDecAttention"]
    assert (cross.tokens, cross.keys, cross.causal) == (list("wxyz"), list("abcd"), False)
    assert parts["decoder.SelfAttention"].causal and parts["decoder.SelfAttention"].tokens == list("wxyz")


def test_encoder_without_maps() -> None:
    """Where an encoder attends in blocks its layers are named, and the decoder's are what they are."""
    given = {"input_ids": torch.arange(3, 19)[None], "decoder_input_ids": torch.arange(30, 46)[None]}
    inspection = attnlab.inspect(tiny("led"), given)
    assert [sentence.partition(" has")[0] for sentence in inspection.missing] == [
        f"layer {i} of led.encoder.layers" for i in (0, 1)
    ]
    cross = inspection.parts["encoder_attn"]
    assert (cross.tokens[0], (cross.keys or [])[0], cross.causal) == ("30", "3", False)
    assert inspection.parts["self_attn"].causal


def test_saved(translated: Inspection, tmp_path: Path) -> None:
    """A folder for each part, with the files of a run's maps."""
    files = [path.relative_to(tmp_path).as_posix() for path in translated.chosen([1], [0, 2]).save(tmp_path)]
    assert files[-3:] == [f"decoder.EncDecAttention/{n}" for n in ("maps.safetensors", "layer_01.png", "index.html")]
    stored = load_prompt_maps(tmp_path / files[-3])
    cross = translated.parts["decoder.EncDecAttention"]
    assert (stored.keys, stored.causal, stored.step) == (cross.keys, False, 4)
    np.testing.assert_array_equal(stored.layers[0].weights, cross.layers[1].weights[[0, 2]])


def test_records(translated: Inspection) -> None:
    """A sentence for each part in the tab, read back as they were."""
    records = list(translated.records("a text"))
    assert [record.tag for record in records[::2]] == [f"maps/a text · {part}/layer_00" for part in translated.parts]
    again = decode(*encode(records[-1]))
    assert (again.keys, again.causal, again.weights.shape) == (list("abcdef"), False, (4, 3, 6))


def test_side_by_side() -> None:
    """Layers that mix in two ways are two parts, the memory signed; tokens without labels are their ids."""
    given = inputs("falcon_h1")
    parts = attnlab.inspect(tiny("falcon_h1"), given).parts
    assert {part: {layer.kind for layer in maps.layers} for part, maps in parts.items()} == {
        "mamba": {"signed"},
        "self_attn": {"probability"},
    }
    assert parts["mamba"].tokens == [str(i) for i in given["input_ids"][0].tolist()]


def test_kinds() -> None:
    """Memories are signed, rows that sum to less than one are no probabilities."""
    kinds = [layer.kind for layer in attnlab.inspect(tiny("qwen3_next"), inputs("qwen3_next")).parts[""].layers]
    assert kinds == ["signed", "signed", "signed", "probability"]
    (maps,) = attnlab.inspect(tiny("gpt_oss"), inputs("gpt_oss")).parts.values()
    assert {layer.kind for layer in maps.layers} == {"sub_probability"}


def test_pictures() -> None:
    """A vision transformer: labels are patches, every one reads every other."""
    labels = ["all", *(f"{row},{column}" for row in range(4) for column in range(4))]
    (maps,) = attnlab.inspect(tiny("vit"), inputs("vit"), labels=labels).parts.values()
    assert maps.tokens == labels and not maps.causal
    with pytest.raises(UsageError, match=r"labels \(16\) must be as many as tokens \(17\)"):
        attnlab.inspect(tiny("vit"), inputs("vit"), labels=labels[1:])


def test_shared_layer() -> None:
    """A layer that computes three times is three layers."""
    (maps,) = attnlab.inspect(tiny("albert"), inputs("albert")).parts.values()
    assert [layer.layer for layer in maps.layers] == [0, 1, 2]


def test_missing() -> None:
    """Layers without a map are named, and the others are shown."""
    inspection = attnlab.inspect(tiny("lfm2"), inputs("lfm2"))
    assert inspection.missing == [
        "layer 0 has no map: Lfm2DecoderLayer computes no weighted sum of values that could be shown"
    ]
    assert [layer.layer for layer in inspection.parts[""].layers] == [1]
    windows = attnlab.inspect(tiny("swin"), inputs("swin")).missing
    assert windows == ["layer 0, attention has no map: its attention is computed in 4 separate blocks"]


@pytest.mark.parametrize("variant", ["differential", "delta_product"])
def test_our_own(variant: str) -> None:
    """A network of ours gives its maps itself, whatever its mixing is written with."""
    config = compose_config([f"attention={variant}", "model.d_model=16", "model.n_heads=4", "model.context=8"])
    model, ids = build_model(config, 20), torch.arange(8)[None]
    (maps,) = attnlab.inspect(model, {"input_ids": ids}).parts.values()
    for layer, own in zip(maps.layers, model.attention_maps(ids), strict=True):
        np.testing.assert_allclose(layer.weights, own.weights[0].detach(), rtol=1e-6)
        assert layer.kind == own.kind
    with pytest.raises(UsageError, match=r"labels \(3\) must be as many as tokens \(8\)"):
        attnlab.inspect(model, ids, labels=["a", "b", "c"])


class Position(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def test_refused() -> None:
    """What has no attention, several examples at once, and numbers of layers that are not there."""
    with pytest.raises(UsageError, match="this model has no attention that can be shown"):
        attnlab.inspect(Position(), torch.ones(1, 2, 3))
    with pytest.raises(UsageError, match="inputs hold a batch of 2, but maps are taken of one example"):
        attnlab.inspect(Position(), (torch.ones(2, 2, 3),))
    inspection = attnlab.inspect(tiny("gpt2"), inputs("gpt2"))
    with pytest.raises(UsageError, match=r"layers \(2\) must be a number of the layers that have a map \(0, 1\)"):
        inspection.chosen([2], None)
    with pytest.raises(UsageError, match=r"heads \(4\) must be below the number of heads of these layers \(4\)"):
        inspection.chosen(None, [4])


def test_low_precision() -> None:
    """A model in bfloat16 is shown as it computes, near to what it gives in float32."""
    for name in ("gpt2", "qwen3_next", "mamba2"):
        low, full = (attnlab.inspect(model, inputs(name)) for model in (tiny(name).bfloat16(), tiny(name)))
        (low_maps,), (maps,) = low.parts.values(), full.parts.values()
        assert not low.missing and len(low_maps.layers) == len(maps.layers)
        for one, other in zip(low_maps.layers, maps.layers, strict=True):
            assert np.abs(one.weights - other.weights).max() < 0.05
