"""What decoding keeps, counted by its shapes: latents alone, shared heads once, and nothing that grows unasked."""

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from attnlab.attention.base import Attention
from attnlab.build import attention_factory
from attnlab.config.compose import compose_config

C, H, D, T = 48, 6, 8, 37  # width, heads, width of a head, tokens


def layer_of(name: str, *words: str) -> Attention:
    sizes = [f"model.d_model={C}", f"model.n_heads={H}", "model.context=4096"]
    layer: Attention = attention_factory(compose_config([f"attention={name}", *sizes, *words]))(
        C, layer=0, n_layers=2, context=4096
    )
    return layer.eval()


@torch.no_grad()
def kept(layer: Attention, length: int) -> list[Tensor]:
    """Every tensor with numbers in it that is held after this many tokens."""
    layer = layer.to("meta")
    _, state = layer.step(torch.empty(1, length, C, device="meta"), layer.init_state(1, length))
    return [leaf for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor) and leaf.numel()]


@pytest.mark.parametrize(("rank", "rope"), [(20, 2), (11, 4), (16, 0)])
def test_latent_cache(rank: int, rope: int) -> None:
    """Latent attention keeps one latent and one rotary key per token and no head."""
    words = [f"attention.kv_rank={rank}", f"attention.rope_dim={rope}", *(["position=none"] if rope == 0 else [])]
    (rows,) = kept(layer_of("mla", *words), T)
    assert rows.shape == (1, 1, T, rank + rope)


@pytest.mark.parametrize("kv_heads", [1, 2, 3, 6])
def test_cache_of_shared_heads(kv_heads: int) -> None:
    """Shared heads are kept once so the state is their share of all heads."""

    def numbers(layer: Attention) -> int:
        return sum(rows.numel() for rows in kept(layer, T))

    whole = numbers(layer_of("multi_head"))
    assert whole == 2 * T * H * D
    assert numbers(layer_of("gqa", f"attention.n_kv_heads={kv_heads}")) * H == whole * kv_heads


@pytest.mark.parametrize("name", ["linear", "retention", "mamba2", "gla", "delta_net", "gated_delta", "rwkv7", "ttt"])
def test_recurrent_state(name: str) -> None:
    """A recurrent layer keeps the same shapes however long the text."""
    layer = layer_of(name)
    assert [rows.shape for rows in kept(layer, 130)] == [rows.shape for rows in kept(layer, 1030)]


@pytest.mark.parametrize("window", [5, 16])
def test_a_window_keeps_as_many_rows_as_it_sees(window: int) -> None:
    layer = layer_of("sliding_window", f"attention.mask.window={window}")
    for length in (window, 10 * window, 100 * window):
        assert all(rows.shape == (1, H, window, D) for rows in kept(layer, length))
