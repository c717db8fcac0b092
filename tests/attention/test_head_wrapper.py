"""Attentions of every family may stand side by side on one layer."""

from functools import partial

import pytest
import torch

from attnlab.attention.base import Attention
from attnlab.attention.controls import IdentityAttention, UniformAttention
from attnlab.attention.decay import ScalarDecay
from attnlab.attention.feature_map import UnitLength
from attnlab.attention.head_wrapper import HeadWrapper
from attnlab.attention.latent import LatentAttention
from attnlab.attention.layer_sharing import CrossLayerAttention, ValueResidualAttention
from attnlab.attention.log_linear import LogLinearAttention
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.native_sparse import NativeSparseAttention
from attnlab.attention.normalizer import Cog
from attnlab.attention.recurrent import RecurrentAttention
from attnlab.attention.rwkv import RWKV7Attention
from attnlab.attention.synthesizer import DenseSynthesizer, RandomSynthesizer
from attnlab.attention.tensor_product import TensorProductAttention
from attnlab.attention.test_time_training import TTTAttention
from attnlab.attention.tied import TiedAttention
from attnlab.attention.write import DeltaWrite

C, T = 12, 7
BESIDE = {
    "cross_layer": CrossLayerAttention,
    "gated_delta": partial(RecurrentAttention, feature_map=UnitLength, decay=ScalarDecay, write=DeltaWrite, conv=3),
    "identity": IdentityAttention,
    "log_linear": LogLinearAttention,
    "mla": LatentAttention,
    "nsa": NativeSparseAttention,
    "rwkv7": RWKV7Attention,
    "synthesizer_dense": DenseSynthesizer,
    "synthesizer_random": RandomSynthesizer,
    "tied_kv": TiedAttention,
    "tpa": TensorProductAttention,
    "ttt": TTTAttention,
    "uniform": UniformAttention,
    "value_residual": ValueResidualAttention,
}


def side_by_side(kind: type[Attention]) -> HeadWrapper:
    """Two multi-head attentions of one head, each followed by one of `kind`."""
    kinds = {"head": partial(MultiHeadAttention, n_heads=1), "other": partial(kind, n_heads=1)}
    torch.manual_seed(0)
    return HeadWrapper(C, n_heads=4, pattern="head other", kinds=kinds, context=T).double().eval()


@pytest.mark.parametrize("name", BESIDE)
def test_every_family(name: str) -> None:
    """Every family stands beside attention heads and decodes as it trains."""
    layer = side_by_side(BESIDE[name])
    x = torch.randn(2, T, C, dtype=torch.float64)
    state, out = layer.init_state(2, T), []
    for i in range(T):
        y, state = layer.step(x[:, i : i + 1], state)
        out.append(y)
    whole = layer(x)
    assert whole.shape == x.shape
    torch.testing.assert_close(torch.cat(out, dim=1), whole)


@pytest.mark.parametrize("name", BESIDE)
def test_pairs(name: str) -> None:
    """Pairs are counted only where every head has some."""
    layer = side_by_side(BESIDE[name])
    known = [head.pairs(T) for head in layer.parts]
    assert layer.pairs(T) == (None if None in known else sum(filter(None, known)) // 4)


def test_traits_combine() -> None:
    """A layer knows no more positions than its heads and jumps where one does."""
    assert side_by_side(BESIDE["log_linear"]).traits.limit == T and side_by_side(BESIDE["uniform"]).traits.limit is None
    cog = HeadWrapper(
        C,
        n_heads=2,
        pattern="plain cog",
        kinds={
            "plain": partial(MultiHeadAttention, n_heads=1),
            "cog": partial(MultiHeadAttention, n_heads=1, normalizer=Cog),
        },
    )
    assert cog.traits.discontinuous and not side_by_side(BESIDE["uniform"]).traits.discontinuous


def test_cost_with_limit() -> None:
    """The cost of a layer whose heads know few positions is measured."""
    layer = side_by_side(BESIDE["synthesizer_random"])
    assert layer.cost(T).params == sum(p.numel() for p in layer.parameters())
