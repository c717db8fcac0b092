"""What FlexAttention is told of a layer is the layer's rule: scores, biases, masks and sinks, and their gradients."""

import pytest
import torch
from tests.laws.cases import shipped
from torch import Tensor

from attnlab.attention.base import HeadedAttention
from attnlab.attention.documents import Documents
from attnlab.attention.flex import FlexMix, flex_refusal, score_mod
from attnlab.attention.shared import Shared
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.laws.layer_in_stack import layers_in_stack
from attnlab.laws.subject import gap, tokens

SERVED = {
    "gqa": "position=none",
    "sliding_window": "position=alibi",
    "multi_head": "position=t5",
    "sink": "position=kerple",
    "softmax1": "position=rope",
    "softcap": "position=rope",
    "ssmax": "position=rope",
    "fox": "position=none",
    "window_sinks": "position=rope",
}
REFUSED = {
    "sigmoid": "is no softmax",
    "differential": "more than a softmax",
    "nsa": "more than a softmax",
    "talking_heads": "needs the scores themselves",
    "linear": "no softmax over scores",
}


def written_out(layer: SoftmaxAttention, x: Tensor) -> Tensor:
    """The layer by what FlexAttention is told of it, on all scores at once; autograd gives the gradients."""
    heads = layer.project(x)
    b, h, t = heads.q.shape[:3]
    pos = torch.arange(t)
    visible = layer.mask.visible(pos, pos)
    keys, values = (y.repeat_interleave(h // layer.n_kv_heads, dim=1) for y in (heads.k, heads.v))
    places = torch.meshgrid(torch.arange(b), torch.arange(h), pos, pos, indexing="ij")
    counts = visible.sum(dim=-1).expand(b, t)
    scores = score_mod(layer, heads, counts)(heads.q @ keys.mT * layer.scale, *places)
    scores = scores.masked_fill(~visible, -torch.inf)
    o = scores.softmax(dim=-1) @ values
    sums = scores.logsumexp(dim=-1)
    if (phantom := layer.normalizer.phantom(sums)) is not None:
        o = o * (sums - phantom[:, None]).sigmoid()[..., None]
    return layer.merge(o, heads)


@pytest.mark.parametrize("name", SERVED)
def test_gradients(name: str) -> None:
    """Of the input and every parameter, those of the layer's own code."""
    (placed, *_) = layers_in_stack(shipped(name, SERVED[name]))
    layer = placed.layer
    assert isinstance(layer, SoftmaxAttention) and flex_refusal(layer) is None
    x = tokens(2, 13).requires_grad_()
    leaves = [x, *(p for p in layer.parameters() if p.requires_grad)]
    both = [torch.autograd.grad((y * tokens(2, 13, seed=2)).sum(), leaves) for y in (layer(x), written_out(layer, x))]
    for ours, theirs in zip(*both, strict=True):
        assert gap(theirs, ours) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVED)
def test_documents(name: str) -> None:
    """Packed rows by one call, each row with borders of its own, give what the layer's own code gives of them."""
    (placed, *_) = layers_in_stack(shipped(name, SERVED[name]))
    shared, x = Shared(), tokens(2, 41)
    shared.documents = Documents(torch.tensor([[0] * 13 + [1] * 28, [0] * 3 + [1] * 20 + [2] * 18]))
    assert isinstance(placed.layer, SoftmaxAttention) and placed.layer.documents
    with torch.no_grad():
        ours = placed.layer(x, shared)
        placed.layer.kernel = FlexMix()
        assert gap(placed.layer(x, shared), ours) < 1e-10
        assert gap(placed.layer(x, Shared()), ours) > 1e-3


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    """What it cannot compute is named."""
    (placed, *_) = layers_in_stack(shipped(name))
    assert isinstance(placed.layer, HeadedAttention)
    assert REFUSED[name] in str(flex_refusal(placed.layer))


def test_learned_bias_of_two_places() -> None:
    """FIRE's bias depends on where the query stands, and is no table of distances."""
    (placed, *_) = layers_in_stack(shipped("multi_head", "position=fire"))
    assert isinstance(placed.layer, HeadedAttention)
    assert "more than the distance" in str(flex_refusal(placed.layer))
