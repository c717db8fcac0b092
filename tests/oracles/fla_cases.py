"""Rules against the plain forms that define the operators of flash-linear-attention.

An operator gets queries, keys, values and gates; so does `mix` of our layers, which trains and draws maps. What comes
before (projections) and after (norm, gate) is not part of these comparisons. Its layout is (b, t, h, d).
"""

import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from tests.oracles.case import BATCH, WIDTH, Case, Recording, Tensors, coarse, generator, in_double, recorded
from torch import Tensor

from attnlab.attention.base import Attention
from attnlab.attention.bounded_memory import Control
from attnlab.attention.depth import Depth, DepthMix
from attnlab.attention.heads import Heads
from attnlab.attention.indexed import Index
from attnlab.attention.log_linear import Rating
from attnlab.attention.momentum import Rates
from attnlab.attention.norm import EPS
from attnlab.attention.parallax import SecondQuery
from attnlab.attention.preconditioned import Curvature
from attnlab.attention.rwkv import Removal
from attnlab.attention.slot_memory import Keeping
from attnlab.attention.test_time_training import InnerRate
from attnlab.attention.write import Erasure

T, H, D = 8, 4, 4
LEVELS = 4  # of 8 tokens
SLOTS = 3
PLAIN = {"q": (T, H, D), "k": (T, H, D), "v": (T, H, D)}
CENTER = -0.20000000298023224  # -0.2 in float32
LOGS = ("g", "h", "m")
Shapes = Mapping[str, tuple[int, ...]]


def operator(folder: str) -> ModuleType:
    """The file naive.py of one operator alone: the package around it needs a compiler for GPUs."""
    package = importlib.util.find_spec("fla")
    assert package is not None and package.submodule_search_locations
    file = Path(package.submodule_search_locations[0]) / "ops" / folder / "naive.py"
    spec = importlib.util.spec_from_file_location(f"fla_{file.parent.name}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(shapes: Shapes) -> dict[str, Tensor]:
    """Inputs by name: g, h and m are logarithms of gates and not above 0, beta a write strength between 0 and 1."""
    draw, inputs = generator(), {}
    for name, shape in shapes.items():
        x = coarse(BATCH, *shape, draw=draw)
        if name in LOGS:
            x = -x.abs() / 4
        if name == "beta":
            x = (x.sigmoid() * 128).round() / 128
        inputs[name] = x.requires_grad_()
    return inputs


def told(folder: str, run: Callable[[ModuleType, dict[str, Tensor]], Tensor], shapes: Shapes) -> Recording:
    with in_double():
        inputs = drawn(shapes)
        return recorded(inputs, {"y": run(operator(folder), inputs)})


def head_first(x: Tensor) -> Tensor:
    return x.transpose(1, 2)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def divided(run: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
    """Values weighed by a rule, over the sum of its weights: the rule's own division adds a small number to the sum."""
    return run(v) / run(torch.ones_like(v))


def mixed(layer: Attention, q: Tensor, k: Tensor, v: Tensor, **beside: Any) -> Tensors:
    """What `mix` of our layer makes of heads that are given, back in the operator's layout."""
    return {"y": layer.mix(Heads(head_first(q), head_first(k), head_first(v), **beside)).transpose(1, 2)}


def memory(layer: Attention, i: Tensors) -> Tensors:
    """A recurrent layer, its feature map and the scale of its queries included."""
    features = layer.feature_map
    extra = {ours: head_first(i[name]) for name, ours in (("g", "log_decay"), ("beta", "beta")) if name in i}
    return mixed(layer, features(i["q"]) * features.query_scale, features(i["k"]), i["v"], **extra)


def erasing(layer: Attention, i: Tensors) -> Tensors:
    """A memory that removes by a strength per channel of the key, and writes by one per channel of the value."""
    k, ones = unit(i["k"]), torch.ones(BATCH, H, T).double()
    own = Erasure(head_first(k * i["beta"]))
    extra = {"log_decay": head_first(i["g"]), "beta": ones, "own": own}
    return mixed(layer, unit(i["q"]) * D**-0.5, k, i["v"] * i["w"], **extra)


def fed_back(layer: Attention, i: Tensors) -> Tensors:
    """Comba: what it corrects stands under a key of its own."""
    extra = {"log_decay": head_first(i["g"]), "beta": head_first(i["beta"]), "own": Erasure(head_first(i["p"]))}
    return mixed(layer, unit(i["q"]) * D**-0.5, unit(i["k"]), i["v"], **extra)


def forgotten(layer: Attention, i: Tensors) -> Tensors:
    """HGRN2: from the scores of its forget gate, in the first layer."""
    log_kept, k = layer.forgetting(i["f"])
    return mixed(layer, i["q"] * D**-0.5, k, i["v"], log_decay=head_first(log_kept))


def gathered(layer: Attention, i: Tensors) -> Tensors:
    """Momentum: the logs of what remains are given, and how much joins and is written."""
    own = Rates(*(head_first(i[name])[..., None] for name in ("m", "n", "beta")))
    return mixed(layer, unit(i["q"]) * D**-0.5, unit(i["k"]), i["v"], log_decay=head_first(i["g"]), own=own)


def preconditioned(layer: Attention, i: Tensors) -> Tensors:
    own = Curvature(head_first(i["c"].sigmoid())[..., None], head_first(i["h"])[..., None])
    extra = {"log_decay": head_first(i["g"]), "beta": head_first(i["beta"]), "own": own}
    return mixed(layer, unit(i["q"]) * D**-0.5, unit(i["k"]), i["v"], **extra)


def decay_by_head(layer: Attention, i: Tensors) -> Tensors:
    """A memory with constant rates of its own."""
    rates = layer.decay.project(i["q"].new_zeros(BATCH, T, WIDTH))
    return mixed(layer, i["q"] * layer.feature_map.query_scale, i["k"], i["v"], log_decay=rates)


def several_writes(layer: Attention, i: Tensors) -> Tensors:
    """The writes of a token follow each other in time there, and are heads of their own here."""

    def as_heads(x: Tensor) -> Tensor:
        return x.unflatten(1, (T, 2)).transpose(2, 3).flatten(2, 3)

    k, v, beta = as_heads(unit(i["k"])), as_heads(i["v"]), as_heads(i["beta"])
    extra = {"log_decay": head_first(i["g"]), "beta": head_first(beta)}
    return mixed(layer, unit(i["q"]) * D**-0.5, k, v, **extra)


def corrected(layer: Attention, i: Tensors) -> Tensors:
    own = Removal(head_first(unit(i["w"])), head_first(i["beta"]))
    return mixed(layer, i["q"], i["k"], i["v"], log_decay=head_first(i["g"]), own=own)


def levels(layer: Attention, i: Tensors) -> Tensors:
    ratings = F.pad(i["level"], (0, layer.n_levels - LEVELS))
    return mixed(layer, i["q"], i["k"], i["v"], log_decay=head_first(i["g"]), own=Rating(head_first(ratings)))


def scores(layer: Attention, i: Tensors) -> Tensors:
    return mixed(layer, i["q"], i["k"], i["v"])


def forgetting(layer: Attention, i: Tensors) -> Tensors:
    return mixed(layer, i["q"], i["k"], i["v"], carried=head_first(i["g"])[..., None])


def reflected(layer: Attention, i: Tensors) -> Tensors:
    carried = torch.cat([unit(i["w"]), 2 * i["beta"][..., None]], dim=-1)
    return mixed(layer, i["q"], i["k"], i["v"], carried=head_first(carried))


def reflected_and_forgotten(layer: Attention, i: Tensors) -> Tensors:
    carried = torch.cat([unit(i["w"]), 2 * i["beta"][..., None], i["g"][..., None]], dim=-1)
    return mixed(layer, i["q"], i["k"], i["v"], carried=head_first(carried))


def indexed(layer: Attention, i: Tensors) -> Tensors:
    index = Index(head_first(i["q_idx"]), i["k_idx"], i["w_idx"])
    with torch.no_grad():  # with gradients, what is added for the indexer's sake would lead one to it
        plain = mixed(layer, i["q"], i["k"], i["v"], own=index)
    trained = mixed(layer, i["q"], i["k"], i["v"], own=index)
    torch.testing.assert_close(trained["y"], plain["y"])
    return trained


def inner_model(layer: Attention, i: Tensors) -> Tensors:
    """The weights and biases of the inner model after all tokens, and the last token's output."""
    layer.load_state_dict({"gain": i["w"].detach()[:, None], "offset": i["b"].detach()[:, None]}, strict=False)
    rate = i["rate"].expand(BATCH, H, T, 1)
    heads = Heads(*(head_first(i[n]) for n in "qkv"), own=InnerRate(rate))
    start = torch.cat([i["h"], i["hb"]], dim=-2)
    empty = layer.empty(BATCH, D)
    o, inner = layer.scan(heads, empty._replace(weight=start, update=torch.zeros_like(start)), 0)
    return {"y": inner.weight, "last": o[:, :, -1:]}


def trained_inner_model(fla: ModuleType, i: dict[str, Tensor]) -> dict[str, Tensor]:
    """In its output an answer a is a + norm(a), where the paper and we have q + norm(a): put right for the last token.

    It gives all tokens of a mini-batch one rate, that of the last; so a rate is the same for all tokens here.
    """
    eta = (i["rate"].sigmoid() / D).expand(BATCH, T, H, 1)
    q, k, v = (i[n].clone() for n in "qkv")
    w, b = (i[n].expand(H, D) for n in "wb")
    o, h, hb = fla.chunk_ttt_linear_ref(
        q, k, v, w, b, eta, 1.0, 1e-6, 4, i["h"].clone(), i["hb"].clone(), output_final_state=True
    )
    q = head_first(i["q"])[:, :, -1:]
    return {"y": torch.cat([h, hb], dim=-2), "last": head_first(o)[:, :, -1:] - (q @ h + hb) + q}


def decaying_slots(layer: Attention, i: Tensors) -> Tensors:
    """Its queries are scaled by default, ours not."""
    return mixed(layer, i["q"] * D**-0.5, i["k"], i["v"], own=Keeping(head_first(i["g"])))


def bounded(layer: Attention, i: Tensors) -> Tensors:
    return mixed(layer, i["q"], i["k"], i["v"], own=Control(head_first(i["s"])))


def mesa() -> Recording:
    """As `told`, beside one number per channel that all rows share."""
    with in_double():
        inputs = drawn(GATED | BETA)
        inputs["ridge"] = coarse(H, D, draw=generator()).requires_grad_()
        i = {name: unit(x) if name in ("q", "k") else x for name, x in inputs.items()}
        lamb = F.softplus(i["ridge"]) + 0.25
        y = operator("mesa_net").naive_mesa_net_exact(*(i[n] for n in "qkvg"), lamb, i["beta"])[0]
        return recorded(inputs, {"y": y})


def least_squares(layer: Attention, i: Tensors) -> Tensors:
    extra = {"log_decay": head_first(i["g"]), "beta": head_first(i["beta"])}
    del layer.ridge  # a parameter, in whose place an input may not stand
    layer.ridge = i["ridge"]
    return mixed(layer, unit(i["q"]), unit(i["k"]), i["v"], **extra)


def by_softmax(layer: Attention, i: Tensors) -> Tensors:
    return mixed(layer, i["q"], i["k"], i["v"], beta=head_first(i["beta"]))


def corrected_by_slope(layer: Attention, i: Tensors) -> Tensors:
    return mixed(layer, i["q"], i["k"], i["v"], own=SecondQuery(head_first(i["r"])))


def ttt() -> Recording:
    draw = generator()
    shapes = {**{n: (BATCH, *s) for n, s in PLAIN.items()}, "w": (H, D), "b": (H, D), "rate": (1, 1, 1, 1)}
    shapes |= {"h": (BATCH, H, D, D), "hb": (BATCH, H, 1, D)}
    with in_double():
        inputs = {name: coarse(*shape, scale=0.5, draw=draw).requires_grad_() for name, shape in shapes.items()}
        outputs = trained_inner_model(operator("ttt"), inputs)
        told = recorded(inputs, outputs)
    # Our gain and offset are parameters of the layer and take no gradient from outside.
    kept = {name: g for name, g in told.gradients.items() if name not in ("w", "b")}
    return Recording(told.inputs, told.outputs, told.dy, kept)


def rule(
    variant: str,
    folder: str,
    function: str,
    run: Callable[[ModuleType, dict[str, Tensor]], Tensor],
    ours: Callable[[Attention, Tensors], Tensors],
    shapes: Shapes = PLAIN,
    options: tuple[str, ...] = (),
    why: str = "",
) -> Case:
    source = f"ops/{folder}/naive.py {function}"
    oracle = partial(told, folder, run, shapes)
    return Case(f"fla_{variant}", variant, "fla-core", source, oracle, ours, options, why=why)


PLAIN_Q_V = {"q": (T, H, D), "v": (T, H, D)}


def attention_residuals(fla: ModuleType, i: dict[str, Tensor]) -> Tensor:
    mixed: Tensor = fla.naive_attnres(i["query"][0, 0], [i[name] for name in OUTPUTS], i["gain"][0, 0], rms_eps=EPS)
    return mixed


def over_depth(_: Attention, inputs: Tensors) -> Tensors:
    """Depth is mixed between the layers, whichever they are; our query holds the gain of its norm."""
    mix = DepthMix(WIDTH).double()
    query = {"query": inputs["query"][0, 0] * inputs["gain"][0, 0]}
    return {"y": torch.func.functional_call(mix, query, (Depth(tuple(inputs[name] for name in OUTPUTS)),))}


OUTPUTS = ("embeddings", "attention", "mlp")
DEPTH = {"query": (1, WIDTH), "gain": (1, WIDTH), **dict.fromkeys(OUTPUTS, (T, WIDTH))}
GATED = {**PLAIN, "g": (T, H)}
BETA = {**PLAIN, "beta": (T, H)}
CHUNKS = ("attention.chunk=3",)  # so that 8 tokens make three chunks, the last one short
CASES = [
    Case(
        "fla_attn_res",
        "multi_head",
        "fla-core",
        "ops/attnres/naive.py naive_attnres",
        partial(told, "attnres", attention_residuals, DEPTH),
        over_depth,
        ("model.residual=attention",),
        why="the mixture alone, which is the same around every attention",
    ),
    rule(
        "linear",
        "linear_attn",
        "naive_recurrent_linear_attn",
        lambda fla, i: divided(
            lambda v: fla.naive_recurrent_linear_attn(F.elu(i["q"]) + 1, F.elu(i["k"]) + 1, v)[0], i["v"]
        ),
        memory,
        options=CHUNKS,
    ),
    rule(
        "based",
        "based",
        "naive_parallel_based",
        lambda fla, i: head_first(
            divided(
                lambda v: fla.naive_parallel_based(head_first(i["q"]), head_first(i["k"]), v, use_norm=False),
                head_first(i["v"]),
            )
        ),
        memory,
        options=CHUNKS,
    ),
    rule(
        "retention",
        "retention",
        "naive_retention",
        lambda fla, i: head_first(fla.naive_retention(*(head_first(i[n]) for n in "qkv"))),
        decay_by_head,
        options=CHUNKS,
    ),
    rule(
        "gla",
        "gla",
        "naive_recurrent_gla",
        lambda fla, i: fla.naive_recurrent_gla(i["q"], i["k"], i["v"], i["g"])[0],
        memory,
        {**PLAIN, "g": (T, H, D)},
        CHUNKS,
    ),
    rule(
        "mamba2",
        "simple_gla",
        "naive_recurrent_simple_gla",
        lambda fla, i: fla.naive_recurrent_simple_gla(i["q"], i["k"], i["v"], i["g"])[0],
        memory,
        GATED,
        CHUNKS,
    ),
    rule(
        "delta_net",
        "delta_rule",
        "delta_rule_recurrence",
        lambda fla, i: head_first(
            fla.delta_rule_recurrence(
                *(head_first(x) for x in (unit(i["q"]), unit(i["k"]), i["v"])), head_first(i["beta"])
            )[0]
        ),
        memory,
        BETA,
        CHUNKS,
    ),
    rule(
        "gated_delta",
        "gated_delta_rule",
        "naive_recurrent_gated_delta_rule",
        lambda fla, i: fla.naive_recurrent_gated_delta_rule(unit(i["q"]), unit(i["k"]), i["v"], i["beta"], i["g"])[0],
        memory,
        GATED | BETA,
        CHUNKS,
    ),
    rule(
        "kda",
        "kda",
        "naive_recurrent_kda",
        lambda fla, i: fla.naive_recurrent_kda(unit(i["q"]), unit(i["k"]), i["v"], i["g"], i["beta"])[0],
        memory,
        {**BETA, "g": (T, H, D)},
        CHUNKS,
    ),
    rule(
        "gdn2",
        "gdn2",
        "naive_recurrent_gdn2",
        lambda fla, i: fla.naive_recurrent_gdn2(unit(i["q"]), unit(i["k"]), i["v"], i["g"], b=i["beta"], w=i["w"])[0],
        erasing,
        dict.fromkeys(("q", "k", "v", "g", "beta", "w"), (T, H, D)),
        CHUNKS,
    ),
    rule(
        "comba",
        "comba",
        "naive_chunk_comba",
        lambda fla, i: fla.naive_chunk_comba(
            unit(i["q"]), unit(i["k"]), i["v"], i["p"], i["g"], i["beta"], chunk_size=4
        )[0],
        fed_back,
        {**GATED, **BETA, "p": (T, H, D)},
        CHUNKS,
        why="its token loop decays the memory before it reads what to correct; its chunks, its kernels and ours after",
    ),
    rule(
        "hgrn2",
        "gla",
        "naive_recurrent_gla",
        lambda fla, i: fla.naive_recurrent_gla(i["q"], 1 - i["f"].sigmoid(), i["v"], F.logsigmoid(i["f"]))[0],
        forgotten,
        {**PLAIN_Q_V, "f": (T, H, D)},
        CHUNKS,
        why="the rule that its layer calls, with f its forget gate and 1 - f its key",
    ),
    rule(
        "momentum_delta",
        "momentum_delta_rule",
        "recurrent_momentum_delta_rule_ref",
        lambda fla, i: fla.recurrent_momentum_delta_rule_ref(
            unit(i["q"]),
            unit(i["k"]),
            i["v"],
            i["g"],
            i["m"],
            unit(i["k"]) * i["g"].exp()[..., None],
            beta=i["beta"],
            eta=i["n"],
        )[0],
        gathered,
        {**GATED, "m": (T, H), "n": (T, H), "beta": (T, H)},
        CHUNKS,
        why="what it corrects stands under a_t k_t, as its layer asks of its kernels",
    ),
    rule(
        "precond_gdn",
        "precond_gated_delta_rule",
        "naive_recurrent_precond_gated_delta_rule",
        lambda fla, i: fla.naive_recurrent_precond_gated_delta_rule(
            i["q"], i["k"], i["v"], i["h"], i["g"], i["c"].sigmoid(), i["beta"], log_atk_scale=CENTER
        )[0],
        preconditioned,
        {**GATED, **BETA, "h": (T, H), "c": (T, H)},
        CHUNKS,
    ),
    rule(
        "precond_kda",
        "precond_kda",
        "naive_recurrent_precond_kda",
        lambda fla, i: fla.naive_recurrent_precond_kda(
            unit(i["q"]), unit(i["k"]), i["v"], i["g"], i["h"], i["c"].sigmoid(), i["beta"], log_atk_scale=CENTER
        )[0],
        preconditioned,
        {**BETA, "g": (T, H, D), "h": (T, H), "c": (T, H)},
        CHUNKS,
    ),
    rule(
        "delta_product",
        "gated_delta_product",
        "naive_recurrent_gated_delta_product",
        lambda fla, i: fla.naive_recurrent_gated_delta_product(
            unit(i["q"]), unit(i["k"]), i["v"], i["g"], i["beta"], D**-0.5, num_householder=2
        )[0],
        several_writes,
        {"q": (T, H, D), "k": (2 * T, H, D), "v": (2 * T, H, D), "g": (T, H), "beta": (2 * T, H)},
        CHUNKS,
    ),
    rule(
        "rwkv7",
        "generalized_delta_rule/dplr",
        "dplr_recurrence",
        lambda fla, i: head_first(
            fla.dplr_recurrence(
                *(
                    head_first(x)
                    for x in (i["q"] * D**0.5, i["k"], i["v"], -unit(i["w"]), i["beta"] * unit(i["w"]), i["g"])
                )
            )[0]
        ),
        corrected,
        dict.fromkeys(("q", "k", "v", "w", "g", "beta"), (T, H, D)),
        CHUNKS,
        why="the rule alone, with the key to remove under and its rate given",
    ),
    rule(
        "log_linear",
        "log_linear_attn",
        "naive_log_linear_attn",
        lambda fla, i: fla.naive_log_linear_attn(i["q"], i["k"], i["v"], i["g"], i["level"]),
        levels,
        {**GATED, "level": (T, H, LEVELS)},
    ),
    rule(
        "stick_breaking",
        "stickbreaking_attn",
        "naive_stickbreaking_attn",
        lambda fla, i: fla.naive_stickbreaking_attn(i["q"], i["k"], i["v"], attend_current=True)[0],
        scores,
        why="the operator's variant in which a token may take a share itself, as ours does",
    ),
    rule(
        "fox",
        "forgetting_attn",
        "naive_forgetting_attn",
        lambda fla, i: fla.naive_forgetting_attn(i["q"], i["k"], i["v"], i["g"]),
        forgetting,
        GATED,
    ),
    rule(
        "path",
        "path_attn",
        "naive_path_attn",
        lambda fla, i: fla.naive_path_attn(
            i["q"], i["k"], i["v"], unit(i["w"]), 2 * i["beta"], torch.zeros_like(i["beta"]), D**-0.5, chunk_size=4
        ),
        reflected,
        {**BETA, "w": (T, H, D)},
        why="the directions w are given: the paper puts a short convolution before them, we do not",
    ),
    rule(
        "path_fox",
        "path_attn",
        "naive_path_attn",
        lambda fla, i: fla.naive_path_attn(
            i["q"], i["k"], i["v"], unit(i["w"]), 2 * i["beta"], i["g"] * D**0.5, D**-0.5, chunk_size=4
        ),
        reflected_and_forgotten,
        {**BETA, "w": (T, H, D), "g": (T, H)},
        why="as path; it scales the gates' sum as it does scores, and is given sqrt(d) times as much",
    ),
    rule(
        "dsa",
        "dsa",
        "naive_dsa",
        lambda fla, i: fla.naive_dsa(i["q"], i["k"], i["v"], i["q_idx"], i["k_idx"], i["w_idx"], topk=3),
        indexed,
        {**PLAIN, "q_idx": (T, 3, D), "k_idx": (T, D), "w_idx": (T, 3)},
        ("attention.topk=3", "attention.index_heads=3", "attention.index_dim=4"),
        why="gradients of queries, keys and values alone: its choice has none, ours lends one to the indexer",
    ),
    rule(
        "softmax1",
        "attn",
        "naive_parallel_attn",
        lambda fla, i: fla.naive_parallel_attn(i["q"], i["k"], i["v"], sink_bias=torch.zeros(H))[0],
        scores,
    ),
    rule(
        "gsa",
        "gsa",
        "naive_recurrent_gsa",
        lambda fla, i: fla.naive_recurrent_gsa(i["q"], i["k"], i["v"], -i["g"].expm1(), i["g"])[0],
        decaying_slots,
        {**PLAIN, "g": (T, H, SLOTS)},
        ("attention.slots=3", *CHUNKS),
    ),
    rule(
        "raven",
        "gsa",
        "naive_recurrent_gsa",
        lambda fla, i: fla.naive_recurrent_gsa(i["q"], i["k"], i["v"], -i["g"].expm1(), i["g"])[0],
        decaying_slots,
        {**PLAIN, "g": (T, H, SLOTS)},
        ("attention.slots=3", *CHUNKS),
        why="the memory alone, which is that of gsa: what each slot keeps is given, and not routed",
    ),
    rule(
        "abc",
        "abc",
        "naive_recurrent_abc",
        lambda fla, i: head_first(fla.naive_recurrent_abc(*(head_first(i[n]) for n in "qkvs"))[0]),
        bounded,
        {**PLAIN, "s": (T, H, SLOTS)},
        ("attention.slots=3", *CHUNKS),
    ),
    rule(
        "deltaformer",
        "deltaformer",
        "naive_deltaformer_attn",
        lambda fla, i: fla.naive_deltaformer_attn(i["q"], i["k"], i["v"], i["beta"]),
        by_softmax,
        BETA,
        ("attention.block=3",),
    ),
    rule(
        "parallax",
        "parallax",
        "naive_parallax",
        lambda fla, i: fla.naive_parallax(i["q"], i["r"], i["k"], i["v"]),
        corrected_by_slope,
        {**PLAIN, "r": (T, H, D)},
    ),
    Case(
        "fla_mesa",
        "mesa",
        "fla-core",
        "ops/mesa_net/naive.py naive_mesa_net_exact",
        mesa,
        least_squares,
        CHUNKS,
    ),
    Case(
        "fla_ttt",
        "ttt",
        "fla-core",
        "ops/ttt/naive.py chunk_ttt_linear_ref",
        ttt,
        inner_model,
        ("attention.minibatch=4",),
        why="one rate for all tokens, for it gives a mini-batch the rate of its last token; see trained_inner_model",
    ),
]
