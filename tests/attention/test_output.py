"""The end of a layer: gates of the token, heads side by side, a projection."""

import torch
from tests.attention.plain_layers import Itself, draw

from attnlab.attention.gate import Exclusive, Headwise
from attnlab.attention.output import GatedOutput


def test_gated() -> None:
    """y = W_o [g_1 o_1; ...; g_h o_h], head by head; the gate does not enter the map."""
    layer, x = Itself(6, n_heads=3, gate=Headwise).double(), draw(2, 4, 6)
    assert isinstance(layer, GatedOutput)
    heads = []
    for h in range(3):
        gate = torch.sigmoid(x @ layer.gate.to_gate.weight[h])
        heads.append(gate[..., None] * x[..., 2 * h : 2 * h + 2])
    torch.testing.assert_close(layer(x), torch.cat(heads, dim=-1) @ layer.to_out.weight.T)
    maps = layer.weights(x)
    assert maps is not None and torch.equal(maps, torch.eye(4).double().expand(2, 3, 4, 4))


def test_plain() -> None:
    """Without a gate nothing of the token is carried along, and the output is the projection alone."""
    layer, x = Itself(6, n_heads=2, d_out=5, head_dim=3).double(), draw(2, 4, 6)
    assert layer.project(x).gate is None and layer.to_out.bias is None
    torch.testing.assert_close(layer(x), x @ layer.to_out.weight.T)


def test_own_value() -> None:
    """A gate that takes out the token's own value gets that of each query head: of itself nothing is left."""
    layer, x = Itself(6, n_heads=2, gate=Exclusive).double(), draw(1, 3, 6)
    torch.testing.assert_close(layer(x), torch.zeros_like(x), atol=1e-12, rtol=0.0)
