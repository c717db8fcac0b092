"""From the names and layouts of weights in Hugging Face's attention modules to ours."""

import torch
from tests.oracles.case import Tensors, interleaved
from torch import Tensor


def projections(w: Tensors, *, heads: int = 4, kv: int = 2, turned: int | None = None) -> dict[str, Tensor]:
    """q_proj, k_proj, v_proj, o_proj of a Llama-like module, and their biases if there are any.

    `turned`: how many rows of each head are rotary pairs in the half-split layout.
    """
    ours = {}
    for name, n in (("q", heads), ("k", kv), ("v", kv)):
        for part in ("weight", "bias"):
            if (theirs := w.get(f"{name}_proj.{part}")) is not None:
                turn = turned if name != "v" else 0
                ours[f"qkv.to_{name}.{part}"] = interleaved(theirs, n, turn)
    return ours | {f"to_out.{part}": w[f"o_proj.{part}"] for part in ("weight", "bias") if f"o_proj.{part}" in w}


def fused(w: Tensors, name: str, out: str, *, per_head: bool, conv1d: bool = False) -> dict[str, Tensor]:
    """One matrix for queries, keys and values, either head by head or one after the other; 4 heads each."""
    ours = {}
    for part in ("weight", "bias"):
        if f"{name}.{part}" not in w:
            continue
        both, last = (w[f"{n}.{part}"] for n in (name, out))
        if conv1d and part == "weight":
            both, last = both.T, last.T
        thirds = both.unflatten(0, (4, 3, -1)).unbind(1) if per_head else both.unflatten(0, (3, 4, -1)).unbind(0)
        ours |= {f"qkv.to_{n}.{part}": third.flatten(0, 1) for n, third in zip("qkv", thirds, strict=True)}
        ours[f"to_out.{part}"] = last
    return ours


def one_key_head(w: Tensors) -> dict[str, Tensor]:
    ours = {}
    for part in ("weight", "bias"):
        split = w[f"c_attn.{part}"].split([16, 4, 4])
        ours |= {f"qkv.to_{n}.{part}": third for n, third in zip("qkv", split, strict=True)}
        ours[f"to_out.{part}"] = w[f"c_proj.{part}"]
    return ours


def turned_heads(w: Tensors) -> dict[str, Tensor]:
    """GPT-NeoX: fused head by head, with half of each head turned; 2 heads of 8."""
    ours = {}
    for part in ("weight", "bias"):
        q, k, v = (x.flatten(0, 1) for x in w[f"query_key_value.{part}"].unflatten(0, (2, 3, -1)).unbind(1))
        ours |= {f"qkv.to_q.{part}": interleaved(q, 2, 4), f"qkv.to_k.{part}": interleaved(k, 2, 4)}
        ours |= {f"qkv.to_v.{part}": v, f"to_out.{part}": w[f"dense.{part}"]}
    return ours


def with_norms(w: Tensors, *, shift: float = 0.0, **sizes: int) -> dict[str, Tensor]:
    """Gains of queries and keys are turned like them; Gemma and Qwen3-Next store them less one."""
    gains = {f"score.1.{n}_norm.weight": interleaved(w[f"{n}_norm.weight"] + shift, 1) for n in "qk"}
    return projections(w, **sizes) | gains


def with_curves(w: Tensors) -> dict[str, Tensor]:
    """Inkling: curves by distance in columns, and norms of queries and keys."""
    relative = {"to_mix.weight": w["r_proj.weight"], "curves.weight": w["rel_logits_proj.proj"].T}
    gains = {f"score.1.{n}_norm.weight": w[f"{n}_norm.weight"] for n in "qk"}
    return projections(w, turned=0) | gains | {f"score.2.{name}": weight for name, weight in relative.items()}


def with_sinks(w: Tensors) -> dict[str, Tensor]:
    return projections(w) | {"normalizer.logit": w["sinks"]}


def gated(w: Tensors) -> dict[str, Tensor]:
    """Qwen3-Next: one matrix holds, head by head, the query and its gate. Heads of 8, of which 4 rows turn."""
    q, gate = (x.flatten(0, 1) for x in w["q_proj.weight"].unflatten(0, (2, 2, -1)).unbind(1))
    gains = {f"score.1.{n}_norm.weight": interleaved(w[f"{n}_norm.weight"] + 1.0, 1, 4) for n in "qk"}
    return {
        "qkv.to_q.weight": interleaved(q, 2, 4),
        "qkv.to_k.weight": interleaved(w["k_proj.weight"], 1, 4),
        "qkv.to_v.weight": w["v_proj.weight"],
        "gate.to_gate.weight": gate,
        "to_out.weight": w["o_proj.weight"],
        **gains,
    }


def two_maps(w: Tensors) -> dict[str, Tensor]:
    """DiffLlama: heads h and h + 2 are the two maps of one head, and its two halves of values; ours stand together.

    Its norm has no gain.
    """

    def together(x: Tensor) -> Tensor:
        return x.unflatten(0, (2, 2, -1)).transpose(0, 1).flatten(0, 2)

    gain = w["q_proj.weight"].new_ones(8)
    return {
        "to_q.weight": together(interleaved(w["q_proj.weight"], 4)),
        "to_k.weight": together(interleaved(w["k_proj.weight"], 4)),
        "to_v.weight": together(w["v_proj.weight"]),
        "to_out.weight": w["o_proj.weight"],
        "lambda_q": torch.stack([w["lambda_q1"], w["lambda_q2"]]),
        "lambda_k": torch.stack([w["lambda_k1"], w["lambda_k2"]]),
        "norm.weight": gain,
    }


def latent(w: Tensors, *, plain: int, rotary: int, rank: int) -> dict[str, Tensor]:
    """DeepSeek: the latent and the rotary key come from one matrix, keys and values of a head from another."""
    to_latent, to_rotary = w["kv_a_proj_with_mqa.weight"].split([rank, rotary])
    up = w["kv_b_proj.weight"].unflatten(0, (4, -1))
    q = "q_b_proj.weight" if "q_b_proj.weight" in w else "q_proj.weight"
    ours = {
        "to_q.weight": w[q],
        "to_latent.weight": to_latent,
        "norm.weight": w["kv_a_layernorm.weight"],
        "to_k.weight": up[:, :plain].flatten(0, 1),
        "to_v.weight": up[:, plain:].flatten(0, 1),
        "to_k_rotary.weight": to_rotary,
        "to_out.weight": w["o_proj.weight"],
    }
    if "q_a_proj.weight" in w:
        ours |= {"to_q_latent.weight": w["q_a_proj.weight"], "q_norm.weight": w["q_a_layernorm.weight"]}
    return ours


def biased(w: Tensors) -> dict[str, Tensor]:
    """T5: names of one letter, and a table of biases."""
    ours = {f"qkv.to_{n}.weight": w[f"{n}.weight"] for n in "qkv"}
    return ours | {"to_out.weight": w["o.weight"], "position.table.weight": w["relative_attention_bias.weight"]}
