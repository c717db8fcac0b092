"""Which fault breaks which law, what must be said of it, and what may fall with it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from tests.laws.mutants import (
    BatchMean,
    ClaimsNonnegative,
    ClaimsProbability,
    ClaimsWindow,
    CoarseMemory,
    ColumnCut,
    ConvolvesOn,
    CountsOn,
    DoesNotLearn,
    DrawsByItself,
    DriftedMap,
    FalselyModest,
    ForgetsOffset,
    ForgottenNumber,
    IgnoresPosition,
    JumpsOverLostDigits,
    KeepsThePrompt,
    KernelAtAnyScore,
    LeakAfterTheMap,
    LeakInTraining,
    LearnsFromWholeRows,
    LeavesTheRange,
    LosesDigits,
    LumpedMap,
    NarrowOutput,
    NeedsAToken,
    NoisyMap,
    NoMapNoReason,
    NoSource,
    OffByOneMask,
    OneHeadCut,
    OtherCapInKernel,
    RefusesWithoutName,
    SeesNeighbours,
    ShortRing,
    SilentlyExplicit,
    StaleBytes,
    StaleCost,
    StatesFormula,
    TurnedNorms,
    Undocumented,
    UnfusableCap,
    Unused,
    WritesIntoInput,
    subject_from,
)

from attnlab.attention.decay import FixedDecay
from attnlab.attention.feature_map import EluPlusOne
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.output_norm import SumNorm
from attnlab.attention.recurrent import RecurrentAttention
from attnlab.attention.score import Scaled
from attnlab.laws import LAWS, Subject


class Mutant(NamedTuple):
    """A fault: the law it was made for, words its message must hold, and laws that may fall with it."""

    law: str
    message: str
    subject: Callable[[], Subject]
    also: frozenset[str] = frozenset()


# every_position runs causality, decode and map anew, so it falls with them. Decoding is causal whatever forward does,
# so a leak in forward also breaks decode; and documents are filled up behind their ends, beside others.
ANEW = frozenset({"every_position"})
LEAK = ANEW | {"decode", "documents"}
# Where the output has another shape, nothing can be compared.
EVERYTHING = frozenset(LAWS)

PLAIN = partial(subject_from, MultiHeadAttention)
made_of: Callable[..., Callable[[], Subject]] = partial(partial, subject_from)
LINEAR = {"feature_map": EluPlusOne, "decay": FixedDecay}

MUTANTS: dict[str, Mutant] = {
    "narrow output": Mutant("shape", "forward makes (1, 1, 23)", made_of(NarrowOutput), EVERYTHING),
    "turned norms": Mutant("shape", "value_norms makes (1, 1, 4)", made_of(TurnedNorms), frozenset({"documents"})),
    "input written": Mutant("shape", "written into", made_of(WritesIntoInput), EVERYTHING),
    "needs a token": Mutant("shape", "no tokens, (b=1, t=0): IndexError", made_of(NeedsAToken)),
    "mask off by one": Mutant(
        "causality",
        "T=2: changing the tokens from 1 on moves the output at 0",
        partial(PLAIN, mask=OffByOneMask),
        LEAK | {"map", "cost"},
    ),
    "leak after the map": Mutant("causality", "T=2: changing", made_of(LeakAfterTheMap), LEAK),
    "leak in training": Mutant("causality", "training, T=7", made_of(LeakInTraining), ANEW),
    "drifted map": Mutant("map", "T=2: merge(A v) differs from forward by", made_of(DriftedMap), ANEW),
    "noisy map": Mutant("map", "taken in training differs", made_of(NoisyMap, dropout=0.3), ANEW),
    "no map": Mutant("map", "map_kind is 'probability', but weights gives no map", made_of(NoMapNoReason), ANEW),
    "not a probability": Mutant("map", "misses the sum 1 by", partial(PLAIN, normalizer=ClaimsProbability), ANEW),
    "negative weights": Mutant("map", "below 0", partial(PLAIN, normalizer=ClaimsNonnegative), ANEW),
    "forgotten offset": Mutant("decode", "T=2 cut as 1+1: step differs", made_of(ForgetsOffset), ANEW),
    "short ring": Mutant("decode", "T=7 cut as", partial(PLAIN, mask=partial(ShortRing, window=4)), ANEW),
    "unused parameter": Mutant("no_dead_parameter", "temperature () does not enter", made_of(Unused)),
    "head thrown away": Mutant("no_dead_parameter", "144 of 576 scalars get no gradient", made_of(OneHeadCut)),
    "column not read": Mutant("no_dead_parameter", "1 of 25 columns get no gradient", made_of(ColumnCut)),
    "batch mean": Mutant("batch_independence", "row 0 of 3 moves by", made_of(BatchMean), frozenset({"documents"})),
    "sees neighbours": Mutant("documents", "in row 0, tokens 1 to 2, differs by", made_of(SeesNeighbours)),
    "counts on": Mutant("documents", "in row 0, tokens 1 to 2, differs by", lambda: replace(PLAIN(), embed=CountsOn)),
    "convolves on": Mutant("documents", "in row 0, tokens 1 to 2, differs by", made_of(ConvolvesOn, conv=3)),
    "learns from whole rows": Mutant("documents", "the gradient of embedding.weight", made_of(LearnsFromWholeRows)),
    "lumped map": Mutant("documents", "gives a token of another document a weight of", made_of(LumpedMap)),
    "stale formula": Mutant("cost", "reports 1728 parameters, there are 2304", made_of(StaleCost)),
    "half the bytes": Mutant("cost", "T=3: cost reports 576 bytes of state, 1152", made_of(StaleBytes)),
    "prompt kept alive": Mutant(
        "cost",
        "are held after 3 tokens at once",
        made_of(KeepsThePrompt, **LINEAR),
        frozenset({"state_growth"}),
    ),
    "endless window": Mutant("state_growth", "growth is 'window', but", made_of(ClaimsWindow)),
    "sharper than fused": Mutant("fused_equals_explicit", "T=2: ", partial(PLAIN, normalizer=SilentlyExplicit)),
    "cap not applied": Mutant(
        "fused_equals_explicit",
        "T=2: ",
        partial(PLAIN, score={"softcap": partial(UnfusableCap, cap=0.1)}),
        frozenset({"backend_equals_mix"}),
    ),
    "another cap in the kernel": Mutant(
        "backend_equals_mix", "T=3: ", partial(PLAIN, score={"softcap": partial(OtherCapInKernel, cap=0.1)})
    ),
    "drawn by itself": Mutant("reproducible", "gain (4, 1, 1) starts from other numbers", made_of(DrawsByItself)),
    "forgotten number": Mutant(
        "reproducible", "two runs with the same seed", made_of(ForgottenNumber, ["model.n_layers=2"])
    ),
    "coarse memory": Mutant("half_precision", "float32", made_of(CoarseMemory, **LINEAR)),
    "lost digits": Mutant("half_precision", "T=7, bfloat16: 1.0e+00", made_of(LosesDigits)),
    "lost digits excused": Mutant("half_precision", "T=7, bfloat16: 1.0e+00 of the aver", made_of(JumpsOverLostDigits)),
    "out of range": Mutant(
        "extreme_inputs",
        "numbers of size 10: ",
        made_of(RecurrentAttention, feature_map=LeavesTheRange, output_norm=SumNorm),
    ),
    "kernel at any score": Mutant("extreme_inputs", "the gradient of the input is", made_of(KernelAtAnyScore)),
    "position ignored": Mutant("every_position", "position=alibi changes nothing", made_of(IgnoresPosition)),
    "refused without a name": Mutant(
        "every_position", "position=alibi is refused without being named", made_of(RefusesWithoutName)
    ),
    "does not learn": Mutant("learns", "right after 1000 steps", made_of(DoesNotLearn)),
    "falsely modest": Mutant("learns", "can_recall is False, but", made_of(FalselyModest)),
    "other temperature": Mutant(
        "stated_formula",
        "T=2: forward differs from formula by",
        made_of(StatesFormula, ["position=none"], score={"scaled": partial(Scaled, temperature=1.01)}),
    ),
    "undocumented": Mutant("explains_itself", "Undocumented has no docstring", made_of(Undocumented)),
    "no source": Mutant("explains_itself", "names no source", made_of(NoSource)),
}
