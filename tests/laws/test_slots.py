"""Every option of every slot, alone and in pairs: it keeps the laws, or is refused in words that name both sides.

All of them take about an hour, so one option in 30 and one pair in 200, drawn by a hash of their words, are run always
and the others with the slow tests. Each reason for a refusal is always asked for. Most options are at work in a variant
of their own, too, which test_laws.py and test_fuzz.py judge.
"""

from itertools import combinations, product

import pytest
from tests.laws.cases import sampled

from attnlab.config.compose import config_dir
from attnlab.errors import UsageError
from attnlab.laws import LAWS, judge, subject_of
from attnlab.laws.subject import positions

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
    "heads": ["attention.n_kv_heads=1", "attention.n_kv_heads=2", "attention.head_dim=10", "attention.qkv_bias=true"],
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


def breaches(name: str, *overrides: str) -> dict[str, str]:
    """The laws broken by a variant under these overrides; a refusal goes on as it is."""
    subject = subject_of(name, overrides)
    subject.layer(0)
    verdicts = [judge(law, subject) for law in LAWS_ASKED]
    return {v.law: v.detail for v in verdicts if v.outcome == "broken"}


@pytest.mark.parametrize("option", sampled(singles(SOFTMAX), every=60))
def test_softmax_attention_keeps_the_laws_with_every_option(option: str) -> None:
    assert breaches("multi_head", option) == {}


# Pairs that make no sense, and the words with which they are refused: both sides, and why.
NEED_ALL = ("forget", "selective", "cope", "path", "multi_token")
REFUSED = {
    ("attention/mask=window_sinks", f"attention/score=[{score}]"): (
        f"attention/score={score} needs every token between query and key, which attention/mask=window_sinks drops"
    )
    for score in NEED_ALL
} | {
    (f"attention/mask={mask}", "attention/score=[multi_token]"): (
        rf"attention/score=multi_token .* neighbouring keys, of which attention/mask={mask} never shows some together"
    )
    for mask in ("dilated", "strided")
}


@pytest.mark.parametrize(("one", "other"), sampled(pairs(SOFTMAX), every=400, always=REFUSED))
def test_softmax_attention_keeps_the_laws_or_refuses_with_every_pair_of_options(one: str, other: str) -> None:
    if words := REFUSED.get((one, other)):
        with pytest.raises(UsageError, match=words):
            breaches("multi_head", one, other)
        return
    broken = breaches("multi_head", one, other)
    if other == "attention.qkv_bias=true" and one in PLACES and one not in TURNED:
        dead = HALF_DEAD_KEY_BIAS if one == "position=rope_partial" else DEAD_KEY_BIAS
        assert broken.pop("no_dead_parameter").startswith(dead)
    if JUMPING & {one, other}:
        broken.pop("half_precision", None)
    assert broken == {}


# A key bias adds the same number to all scores of a query, which a softmax does not feel unless positions turn keys.
DEAD_KEY_BIAS = "qkv.to_k.bias: 24 of 24 scalars get no gradient"
HALF_DEAD_KEY_BIAS = DEAD_KEY_BIAS.replace("24 of", "16 of")  # of 6 coordinates of a head 2 are turned
TURNED = {"position=rope", "position=xpos", "position=yarn"}
# Where a score passes 0, the weight of a lone key jumps from 0 to 1, or every weight changes its sign: with few keys,
# one score that bfloat16 rounds to the other side moves the average, too.
JUMPING = {"attention/normalizer=softpick", "attention/normalizer=cog"}


@pytest.mark.parametrize(
    ("also", "dead"),
    [
        ("position=none", True),
        ("position=rope", False),
        ("position=none attention/normalizer=softmax1", False),
        ("position=none attention/score=[qk_norm]", False),
    ],
)
def test_a_key_bias_is_dead_where_nothing_but_a_softmax_follows_it(also: str, dead: bool) -> None:
    verdict = judge("no_dead_parameter", subject_of("multi_head", ["attention.qkv_bias=true", *also.split()]))
    assert verdict.detail.startswith(DEAD_KEY_BIAS) if dead else verdict.outcome == "kept"


CHAINS = ["scaled,qk_norm", "qk_norm,softcap", "softcap,qk_norm,scaled", "unscaled,qk_norm"]


@pytest.mark.parametrize("chain", sampled([(chain,) for chain in CHAINS], every=4))
def test_links_of_a_score_chain_keep_the_laws_together(chain: str) -> None:
    assert breaches("multi_head", f"attention/score=[{chain}]") == {}


def test_two_links_that_both_set_the_scale_are_refused() -> None:
    with pytest.raises(UsageError, match="Scaled and Unscaled, which both set the scale; keep one"):
        breaches("multi_head", "attention/score=[scaled,unscaled]")


def test_two_links_that_both_make_the_scores_are_refused() -> None:
    with pytest.raises(UsageError, match="Path and MultiToken, which both make the scores; keep one"):
        breaches("multi_head", "attention/score=[multi_token,path]")


@pytest.mark.parametrize("link", ["qk_norm", "cope", "path", "selective", "multi_token", "forget"])
def test_a_family_that_never_makes_keys_while_decoding_refuses_links_that_need_them(link: str) -> None:
    with pytest.raises(UsageError, match=r"attention/score \(\w+\) must not read, change or extend keys"):
        breaches("mla", f"attention/score=[{link}]")


# The recurrent family, beginning from no special needs: linear attention with an output norm that any memory may have.
BASE = ("attention/output_norm=rms",)


def refusal(overrides: tuple[str, ...]) -> str | None:
    """The words with which a combination must be refused; None if it makes sense."""
    chosen = dict(override.split("=", 1) for override in overrides)
    if chosen.get("position") in ("alibi", "fire", "kerple", "t5"):
        return r"position\.inside \(\w+\) works through bias, but RecurrentAttention offers only rotate"
    positive = chosen.get("attention/feature_map", "elu") in ("elu", "taylor", "random")
    adds = chosen.get("attention/write", "add") == "add"
    channels = chosen.get("attention/decay") in ("channel", "kda")
    if channels and chosen.get("attention/feature_map") in ("taylor", "random"):
        return (
            r"attention/decay \(\w+\) fades each of the 6 channels of a head, but attention/feature_map \(\w+\) makes"
        )
    if chosen.get("attention/decay") == "step" and not adds:
        return "attention/decay=step multiplies keys by a step|attention/write=delta multiplies the memory"
    if not adds and chosen.get("attention/feature_map", "elu") != "unit":
        return r"attention/write=delta multiplies the memory by .* keys longer than one, and \w+ leaves them so"
    if chosen.get("attention/output_norm") == "sum" and not (positive and adds):
        return "attention/output_norm=sum divides by a sum of weights, which may be zero unless they are positive"
    return None


def on_base(*overrides: str) -> tuple[str, ...]:
    """These options over those of `BASE`."""
    return tuple({override.split("=")[0]: override for override in (*BASE, *overrides)}.values())


# The last pair of those that are refused for the same reason.
ONE_OF_EACH = {words: pair for pair in pairs(RECURRENT) if (words := refusal(on_base(*pair)))}.values()


def keeps_the_laws_or_is_refused(*overrides: str) -> None:
    chosen = on_base(*overrides)
    if (words := refusal(chosen)) is None:
        assert breaches("linear", *chosen) == {}
        return
    with pytest.raises(UsageError, match=words):
        breaches("linear", *chosen)


@pytest.mark.parametrize("option", sampled(singles(RECURRENT), every=60))
def test_recurrent_attention_keeps_the_laws_or_refuses_with_every_option(option: str) -> None:
    keeps_the_laws_or_is_refused(option)


@pytest.mark.parametrize(("one", "other"), sampled(pairs(RECURRENT), every=400, always=ONE_OF_EACH))
def test_recurrent_attention_keeps_the_laws_or_refuses_with_every_pair_of_options(one: str, other: str) -> None:
    keeps_the_laws_or_is_refused(one, other)


@pytest.mark.parametrize(("variant", "chunk"), sampled(product(["linear", "gated_delta"], ["1", "5"]), every=4))
def test_the_chunk_changes_no_law(variant: str, chunk: str) -> None:
    assert breaches(variant, f"attention.chunk={chunk}") == {}


@pytest.mark.parametrize("gate", ["none", "exclusive"])
def test_a_head_that_brings_almost_nothing_home_is_still_near_float32_when_its_norm_makes_it_large(gate: str) -> None:
    """A query that fits no key leaves an output near 0, which attention/output_norm=rms scales up, rounding and all."""
    verdict = judge("half_precision", subject_of("delta_product", [f"attention/gate={gate}"]))
    assert verdict.outcome == "kept", verdict.detail
