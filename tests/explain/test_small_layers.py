"""Layers of several variants with the same numbers in every matrix that several have."""

import torch

from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.explain.explanations import variant
from attnlab.explain.small_layers import deal, stacked


def test_matrices_are_dealt() -> None:
    """A layer gets what another has under the same name and in the same shape, and keeps the rest."""
    one, other = (MultiHeadAttention(8, n_heads=2, out_bias=bias) for bias in (False, True))
    kept = other.to_out.bias.detach().clone()
    assert not torch.equal(one.qkv.to_q.weight, other.qkv.to_q.weight)
    deal([one], [other])
    given, taken = stacked(one), stacked(other)
    assert all(torch.equal(part, taken[name][i]) for name, parts in given.items() for i, part in enumerate(parts))
    assert torch.equal(other.to_out.bias, kept)


def test_shared_heads_get_means() -> None:
    """Heads of keys that two queries share are the means of those that each had."""
    many, few = MultiHeadAttention(8, n_heads=4), MultiHeadAttention(8, n_heads=4, n_kv_heads=2)
    deal([many], [few])
    heads = many.qkv.to_k.weight.unflatten(0, (4, 2))
    expected = torch.stack([heads[:2].mean(0), heads[2:].mean(0)]).flatten(0, 1)
    torch.testing.assert_close(few.qkv.to_k.weight, expected)


def test_latents_mix() -> None:
    """Where half of so narrow a layer is one number, a latent has two, which is said; what was typed stays."""
    for name in ("mla", "gated_mla", "hca"):
        e = variant(name)
        ranks = {key: value for key, value in e.settings.items() if key.endswith("_rank")}
        assert "2" in ranks.values() and "1" not in ranks.values(), name
        assert any("is 2 here, so that the latent mixes numbers" in note for note in e.notes)
    assert variant("mla", overrides=("attention.kv_rank=1",)).settings["kv_rank"] == "1"


def test_other_shapes_are_left() -> None:
    """A layer of another width keeps its own numbers."""
    one, other = MultiHeadAttention(8, n_heads=2), MultiHeadAttention(4, n_heads=2)
    before = other.qkv.to_q.weight.detach().clone()
    deal([one], [other])
    assert torch.equal(other.qkv.to_q.weight, before)
