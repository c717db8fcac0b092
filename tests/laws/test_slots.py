"""Every option of every slot, alone and in pairs: it keeps the laws, or is refused in words that name both sides.

All of them take about an hour, so one option in 30 and one pair in 200, drawn by a hash of their words, are run always
and the others with the slow tests. Each reason for a refusal is always asked for. Most options are at work in a variant
of their own, too, which test_laws.py and test_fuzz.py judge.
"""

from collections.abc import Callable, Iterable
from itertools import combinations, product
from typing import Any

import pytest
import torch
from hydra.utils import get_class
from tests.laws.cases import sampled

from attnlab.attention.base import HeadedAttention
from attnlab.attention.decay import Decay
from attnlab.attention.multi_token import MultiToken
from attnlab.attention.normalizer import Softmax
from attnlab.attention.query_sink import QuerySink
from attnlab.config.compose import config_dir
from attnlab.errors import UsageError
from attnlab.laws import LAWS, judge, subject_of
from attnlab.laws.subject import CONTEXT, D_MODEL, positions
from attnlab.options import options_of

WIDTH = D_MODEL // 4  # of a head

# The others take seconds (all positions, learning) or are about the words of the class.
LAWS_ASKED = [law for law in LAWS if law not in ("every_position", "extreme_inputs", "learns", "explains_itself")]


def options(slot: str) -> list[str]:
    """The overrides that choose each option of a slot."""
    names = sorted(file.stem for file in (config_dir() / "attention" / slot).glob("*.yaml"))
    assert names, slot
    return [f"attention/{slot}=[{name}]" if slot == "score" else f"attention/{slot}={name}" for name in names]


PLACES = [f"position={name}" for name in positions()]
SHORT_CONV = ["attention.conv=0", "attention.conv=3"]
# Choosing what is chosen anyway is the variant itself, which test_laws.py asks all there is to ask.
USUAL = {"attention/score=[scaled]", "attention/gate=none", "position=rope", "attention.conv=0"}
USUAL |= {f"attention/{usual}" for usual in ("mask=causal", "normalizer=softmax", "write=add", "decay=none")}
SOFTMAX = {slot: options(slot) for slot in ("mask", "score", "normalizer", "gate")} | {
    "position": PLACES,
    "conv": SHORT_CONV,
    "heads": [
        *("attention.n_kv_heads=1", "attention.n_kv_heads=2", "attention.head_dim=10", "attention.qkv_bias=true"),
        "+attention.value_dim=10",
    ],
}
RECURRENT = {slot: options(slot) for slot in ("feature_map", "decay", "write", "output_norm", "gate")} | {
    "position": PLACES,
    "conv": SHORT_CONV,
}


def singles(slots: dict[str, list[str]]) -> list[tuple[str]]:
    """All options that change something."""
    return [(option,) for slot in slots.values() for option in slot if option not in USUAL]


def pairs(slots: dict[str, list[str]]) -> list[tuple[str, str]]:
    """All pairs of options of two different slots."""
    return [pair for one, other in combinations(slots.values(), 2) for pair in product(one, other)]


def broken_laws(name: str, *overrides: str) -> dict[str, str]:
    """The laws broken by a variant under these overrides; a refusal goes on as it is."""
    subject = subject_of(name, overrides)
    subject.layer(0)
    verdicts = [judge(law, subject) for law in LAWS_ASKED]
    return {v.law: v.detail for v in verdicts if v.outcome == "broken"}


@pytest.mark.parametrize("option", sampled(singles(SOFTMAX), every=60))
def test_softmax_options(option: str) -> None:
    """Softmax attention keeps the laws or refuses with every option."""
    keeps_the_laws_or_is_refused("multi_head", option)


# What classes declare of themselves, and the pairs that make no sense by it. Each is refused in words that name both.
CLASHES: dict[tuple[str, str], Callable[[Any, Any], bool]] = {
    ("mask", "score"): lambda mask, modifier: (
        (modifier.needs_all and not mask.contiguous)
        or (isinstance(modifier, MultiToken) and not bool(modifier.used(mask).all()))
    ),
    ("score", "normalizer"): lambda modifier, normalizer: (
        isinstance(modifier, QuerySink) and normalizer.map_kind == "probability"
    ),
    ("feature_map", "decay"): lambda features, decay: decay.per_channel and features.width != WIDTH,
    ("feature_map", "write"): lambda features, write: write.erases and not features.unit,
    ("feature_map", "output_norm"): lambda features, norm: norm.divides and not features.positive,
    ("decay", "write"): lambda decay, write: write.erases and type(decay).scale_keys is not Decay.scale_keys,
    ("write", "output_norm"): lambda write, norm: norm.divides and write.erases,
}
SIZES = {"d_model": D_MODEL, "n_heads": 4, "head_dim": WIDTH, "value_dim": WIDTH, "context": CONTEXT}


def parts(name: str, overrides: Iterable[str]) -> tuple[type[HeadedAttention], dict[str, list[Any]]]:
    """The class of a variant, and what stands in its slots, each built by itself."""
    config = subject_of(name, overrides).config.attention
    slots = {slot: node if slot == "score" else {slot: node} for slot, node in config.items() if isinstance(node, dict)}
    return get_class(config["_target_"]), {
        slot: [built(node) for node in nodes.values()] for slot, nodes in slots.items()
    }


def built(node: dict[str, Any]) -> Any:
    """One option with the sizes that its class asks for."""
    cls = get_class(node["_target_"])
    own = {key: value for key, value in node.items() if not key.startswith("_")}
    return cls(**own, **{key: size for key, size in SIZES.items() if key in (options_of(cls) or {})})


def clashes(name: str, overrides: Iterable[str]) -> list[tuple[str, str]]:
    """The slots of a variant that hold what does not go together: the words with which it must be refused."""
    cls, slots = parts(name, overrides)
    pairs = [
        (f"attention/{one}", f"attention/{other}")
        for (one, other), clash in CLASHES.items()
        for a, b in product(slots.get(one, ()), slots.get(other, ()))
        if clash(a, b)
    ]
    (position,) = slots["position"]
    return pairs + [("position.inside", cls.__name__)] * bool(position.hooks - cls.hooks)


def keeps_the_laws_or_is_refused(name: str, *overrides: str) -> None:
    if expected := clashes(name, overrides):
        with pytest.raises(UsageError) as refused:
            broken_laws(name, *overrides)
        assert any(one in str(refused.value) and other in str(refused.value) for one, other in expected)
        return
    broken = broken_laws(name, *overrides)
    layer = subject_of(name, overrides).layer(0)
    if layer.traits.discontinuous:  # with few keys, one score that bfloat16 rounds to the other side moves the average
        broken.pop("half_precision", None)
    if getattr(layer, "qkv_bias", False) and (dead := dead_numbers(layer)):
        assert broken.pop("no_dead_parameter").startswith(DEAD_KEY_BIAS.format(dead))
    assert broken == {}


# A key bias adds the same number to all scores of a query, which a softmax does not feel unless positions turn keys.
DEAD_KEY_BIAS = "qkv.to_k.bias: {} of 24 scalars get no gradient"


def dead_numbers(layer: Any) -> int:
    """How many numbers of the key bias do not matter: those of coordinates that no position turns."""
    if type(layer.normalizer) is not Softmax or len(layer.score_mods) > 1:
        return 0
    ones = torch.ones(1, 1, 1, layer.head_dim)
    still = layer.position.rotate_keys(ones, start=1) == ones
    return int(still.sum()) * layer.n_kv_heads


@pytest.mark.parametrize(("one", "other"), sampled(pairs(SOFTMAX), every=400))
def test_softmax_pairs(one: str, other: str) -> None:
    """Two options of different slots keep the laws, or are refused."""
    keeps_the_laws_or_is_refused("multi_head", one, other)


REFUSED = [
    ("multi_head", "attention/mask=window_sinks", "attention/score=[cope]"),
    ("multi_head", "attention/mask=dilated", "attention/score=[multi_token]"),
    ("multi_head", "attention/score=[query_sink]", "attention/normalizer=entmax"),
    ("linear", "attention/feature_map=taylor", "attention/decay=channel"),
    ("linear", "attention/feature_map=unit", "attention/write=delta", "attention/output_norm=sum"),
    ("linear", "attention/feature_map=unit", "attention/write=delta", "attention/decay=step"),
    ("linear", "attention/feature_map=silu", "attention/output_norm=sum"),
    ("linear", "attention/write=delta", "attention/output_norm=rms"),
    ("linear", "position=alibi"),
]


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_refused_pairs(words: tuple[str, ...]) -> None:
    """One pair for each way in which options clash; both sides are named."""
    assert clashes(words[0], words[1:])
    keeps_the_laws_or_is_refused(*words)


@pytest.mark.parametrize(
    ("also", "dead"),
    [
        ("position=none", True),
        ("position=rope", False),
        ("position=none attention/normalizer=softmax1", False),
        ("position=none attention/score=[qk_norm]", False),
    ],
)
def test_dead_key_bias(also: str, dead: bool) -> None:
    """A key bias is dead where nothing but a softmax follows it."""
    verdict = judge("no_dead_parameter", subject_of("multi_head", ["attention.qkv_bias=true", *also.split()]))
    assert verdict.detail.startswith(DEAD_KEY_BIAS.format(24)) if dead else verdict.outcome == "kept"


CHAINS = ["scaled,qk_norm", "qk_norm,softcap", "softcap,qk_norm,scaled", "unscaled,qk_norm"]


@pytest.mark.parametrize("chain", sampled([(chain,) for chain in CHAINS], every=4))
def test_score_modifiers_together(chain: str) -> None:
    """Links of a score chain keep the laws together."""
    assert broken_laws("multi_head", f"attention/score=[{chain}]") == {}


QK_NORMS = ["over=all", "when=after", "kind=layer", "eps=0.01", "gain=false", "unit_offset=true"]


@pytest.mark.parametrize("option", sampled([(option,) for option in QK_NORMS], every=6))
def test_norms_of_queries_and_keys_keep_the_laws(option: str) -> None:
    assert broken_laws("gqa", "attention/score=[scaled,qk_norm]", f"+attention.score.qk_norm.{option}") == {}


@pytest.mark.parametrize(("name", "option"), [("mla", "value_dim=3"), ("multi_head", "value_dim=10")])
@pytest.mark.slow
def test_values_of_another_width_keep_the_laws(name: str, option: str) -> None:
    assert broken_laws(name, f"+attention.{option}") == {}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("{bias: true}", "bias.*must be false: only kind=layer has a shift"),
        ("{gain: false, unit_offset: true}", "gain.*must be true where unit_offset or bias is"),
        ("{over: each}", "over"),
    ],
)
def test_contradicting_norms(options: str, problem: str) -> None:
    """Norms that contradict themselves are refused."""
    with pytest.raises(UsageError, match=problem):
        subject_of("gqa", ["attention/score=[scaled,qk_norm]", f"+attention.score.qk_norm={options}"]).layer(0)


def test_two_scales_are_refused() -> None:
    """Two modifiers that both set the scale are refused."""
    with pytest.raises(UsageError, match="Scaled and Unscaled, which both set the scale; keep one"):
        broken_laws("multi_head", "attention/score=[scaled,unscaled]")


def test_two_scores_are_refused() -> None:
    """Two modifiers that both make the scores are refused."""
    with pytest.raises(UsageError, match="Path and MultiToken, which both make the scores; keep one"):
        broken_laws("multi_head", "attention/score=[multi_token,path]")


@pytest.mark.parametrize("modifier", ["qk_norm", "cope", "path", "selective", "multi_token", "forget"])
def test_modifiers_without_keys(modifier: str) -> None:
    """A family that never makes keys while decoding refuses modifiers that need them."""
    with pytest.raises(UsageError, match=r"attention/score \(\w+\) must not read, change or extend keys"):
        broken_laws("mla", f"attention/score=[{modifier}]")


# The recurrent family, beginning from no special needs: linear attention with an output norm that any memory may have.
BASE = ("attention/output_norm=rms",)


def on_base(*overrides: str) -> tuple[str, ...]:
    """These options over those of `BASE`."""
    return tuple({override.split("=")[0]: override for override in (*BASE, *overrides)}.values())


@pytest.mark.parametrize("option", sampled(singles(RECURRENT), every=60))
def test_recurrent_options(option: str) -> None:
    """Recurrent attention keeps the laws or refuses with every option."""
    keeps_the_laws_or_is_refused("linear", *on_base(option))


@pytest.mark.parametrize(("one", "other"), sampled(pairs(RECURRENT), every=400))
def test_recurrent_pairs_of_options(one: str, other: str) -> None:
    """Recurrent attention keeps the laws or refuses with every pair of options."""
    keeps_the_laws_or_is_refused("linear", *on_base(one, other))


@pytest.mark.parametrize(("variant", "chunk"), sampled(product(["linear", "gated_delta"], ["1", "5"]), every=4))
def test_the_chunk_changes_no_law(variant: str, chunk: str) -> None:
    assert broken_laws(variant, f"attention.chunk={chunk}") == {}


@pytest.mark.parametrize("gate", ["none", "exclusive"])
def test_norm_of_tiny_output(gate: str) -> None:
    """A query that fits no key leaves an output near 0, which attention/output_norm=rms scales up, rounding and all."""
    verdict = judge("half_precision", subject_of("delta_product", [f"attention/gate={gate}"]))
    assert verdict.outcome == "kept", verdict.detail
