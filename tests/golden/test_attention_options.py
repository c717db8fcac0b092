"""The first losses under each option of attention that no YAML of configs/attention sets.

To write them again after a change that is meant to move them: `python -m tests.golden.test_attention_options`.
"""

import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attnlab.attention.base import AttentionFactory
from attnlab.attention.decay import ScalarDecay, StepDecay
from attnlab.attention.differential import DifferentialAttention
from attnlab.attention.feature_map import UnitLength
from attnlab.attention.latent import LatentAttention
from attnlab.attention.mamba import Mamba2Attention
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.output_norm import RMSOutputNorm
from attnlab.attention.position import Position
from attnlab.attention.recurrent import RecurrentAttention
from attnlab.attention.rotary import LinearRoPE, Llama3RoPE, RoPE, YaRN
from attnlab.attention.score import QKNorm, Scaled, Score
from attnlab.attention.write import DeltaWrite
from attnlab.model import GPT
from attnlab.options.model_config import ModelConfig

FILE = Path(__file__).with_name("attention_options.json")
STEPS, BATCH, VOCABULARY, CONTEXT = 4, 4, 64, 24
MULTI_HEAD = partial(MultiHeadAttention, n_heads=4, n_kv_heads=2, position=RoPE)
LATENT = partial(LatentAttention, n_heads=4, position=RoPE)
DIFFERENTIAL = partial(DifferentialAttention, n_heads=4, position=RoPE)
MAMBA = partial(Mamba2Attention, n_heads=4, n_key_heads=2, conv=3, conv_bias=True)
GATED_DELTA = partial(
    RecurrentAttention,
    n_heads=4,
    conv=3,
    feature_map=UnitLength,
    decay=ScalarDecay,
    write=DeltaWrite,
    output_norm=RMSOutputNorm,
)


def scored(kind: type[Score], /, **options: Any) -> AttentionFactory:
    return partial(MULTI_HEAD, score={"it": partial(kind, **options)})


def rotated(kind: type[Position], /, **options: Any) -> AttentionFactory:
    return partial(MULTI_HEAD, position=partial(kind, **options))


OPTIONS: dict[str, AttentionFactory] = {
    "without": MULTI_HEAD,
    "qk_norm": scored(QKNorm),
    "qk_norm over=all": scored(QKNorm, over="all"),
    "qk_norm when=after": scored(QKNorm, when="after"),
    "qk_norm kind=layer": scored(QKNorm, kind="layer"),
    "qk_norm bias=true": scored(QKNorm, kind="layer", bias=True),
    "qk_norm eps=0.01": scored(QKNorm, eps=0.01),
    "qk_norm gain=false": scored(QKNorm, gain=False),
    "qk_norm unit_offset=true": scored(QKNorm, unit_offset=True),
    "scaled scale=0.5": scored(Scaled, scale=0.5),
    "value_dim=3": partial(MULTI_HEAD, value_dim=3),
    "differential": DIFFERENTIAL,
    "differential n_kv_heads=2": partial(DIFFERENTIAL, n_kv_heads=2),
    "differential head_dim=4": partial(DIFFERENTIAL, head_dim=4),
    "differential qkv_bias=true": partial(DIFFERENTIAL, qkv_bias=True),
    "differential out_bias=true": partial(DIFFERENTIAL, out_bias=True),
    "differential norm_eps=0.01": partial(DIFFERENTIAL, norm_eps=0.01),
    "differential norm_gain=false": partial(DIFFERENTIAL, norm_gain=False),
    "gated_delta": GATED_DELTA,
    "gated_delta n_key_heads=2": partial(GATED_DELTA, n_key_heads=2),
    "gated_delta conv_bias=true": partial(GATED_DELTA, conv_bias=True),
    "unit eps=0.01": partial(GATED_DELTA, feature_map=partial(UnitLength, eps=0.01)),
    "output_norm eps=0.01": partial(GATED_DELTA, output_norm=partial(RMSOutputNorm, eps=0.01)),
    "mamba2_mixer": MAMBA,
    "mamba2_mixer norm_eps=0.01": partial(MAMBA, norm_eps=0.01),
    "steps least=0.05": partial(MAMBA, decay=partial(StepDecay, least=0.05)),
    "steps most=0.05": partial(MAMBA, decay=partial(StepDecay, most=0.05)),
    "latent": LATENT,
    "latent value_dim=3": partial(LATENT, value_dim=3),
    "latent norm_eps=0.01": partial(LATENT, norm_eps=0.01),
    "linear scaling": rotated(LinearRoPE),
    "llama3": rotated(Llama3RoPE),
    "yarn": rotated(YaRN),
    "yarn fraction=0.5": rotated(YaRN, fraction=0.5),
    "yarn ramp=pairs": rotated(YaRN, ramp="pairs"),
    "yarn truncate=false": rotated(YaRN, ramp="pairs", truncate=False),
    "yarn mscale=0.5": rotated(YaRN, mscale=0.5, mscale_all_dim=1.0),
    "yarn attention_factor=0.5": rotated(YaRN, attention_factor=0.5),
}


def losses(attention: AttentionFactory) -> list[float]:
    """The first losses of a small model, in float64 and on made-up tokens, as for the baselines."""
    config = ModelConfig(n_layers=2, d_model=32, context=CONTEXT, init="fan_in")
    model = GPT(config, vocab_size=VOCABULARY, attention=attention).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    raw = np.random.Philox(key=7).random_raw(BATCH * (CONTEXT + 1)) % np.uint64(VOCABULARY)
    ids = torch.from_numpy(raw.astype(np.int64)).reshape(BATCH, CONTEXT + 1)
    curve = []
    for _ in range(STEPS):
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return curve


@pytest.mark.parametrize("name", OPTIONS)
def test_losses(name: str) -> None:
    """They are what they were; 1e-9 as for the baselines."""
    np.testing.assert_allclose(losses(OPTIONS[name]), json.loads(FILE.read_text())[name], rtol=1e-9)


def test_every_option_moves_them() -> None:
    """An option that nothing reads would leave the losses as they are without it."""
    curves = json.loads(FILE.read_text())
    assert curves.keys() == OPTIONS.keys()
    lasts = sorted(curve[-1] for curve in curves.values())
    assert min(b - a for a, b in itertools.pairwise(lasts)) > 1e-8


if __name__ == "__main__":
    FILE.write_text(json.dumps({n: losses(make) for n, make in OPTIONS.items()}, indent=1) + "\n", encoding="utf-8")
