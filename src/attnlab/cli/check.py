"""`attnlab check`."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from attnlab.cli._arguments import ConfigDir, VariantPackages
from attnlab.errors import UsageError, nearest

if TYPE_CHECKING:
    from attnlab.laws import Subject, Verdict


def check(
    *overrides: Annotated[str, "any setting of train.py, such as attention.n_heads=2 or attention/mask=window"],
    attention: Annotated[str, "the variant: the name of a YAML file in configs/attention"],
    config_dir: ConfigDir = None,
    allow_targets: VariantPackages = (),
    laws: Annotated[tuple[str, ...], "which laws, such as causality,decode; left out: all"] = (),
) -> None:
    """Judge a variant by the laws that every variant obeys; exit code 1 if one is broken."""
    from attnlab.config.messages import compose_variant

    variant = compose_variant(attention, config_dir, allow_targets, overrides, "attnlab check")
    from attnlab.laws import LAWS, judge, subject_from  # only now: torch takes seconds
    from attnlab.laws.subject import D_MODEL

    for law in laws:
        if law not in LAWS:
            raise UsageError(f"laws ({law}) must be among: {', '.join(LAWS)}{nearest(law, LAWS)}")
    subject = subject_from(variant)
    _refuse_sizes(subject)
    print(f"attention={attention} ({subject.config.attention['_target_']}), layers of d_model={D_MODEL}")
    started, verdicts = time.perf_counter(), []
    for law in dict.fromkeys(laws) or LAWS:
        print(f"  {law:{max(map(len, LAWS)) + 2}}", end="", flush=True)  # a law may take seconds: show which is at work
        start = time.perf_counter()
        verdicts.append(judge(law, subject))
        print(f"{verdicts[-1].outcome:8}{time.perf_counter() - start:6.1f} s", flush=True)
        if verdicts[-1].detail:
            print(f"      {verdicts[-1].detail}", flush=True)
    print(_sum(verdicts, time.perf_counter() - started))
    if any(verdict.outcome == "broken" for verdict in verdicts):
        sys.exit(1)


def _sum(verdicts: "Sequence[Verdict]", seconds: float) -> str:
    count, broken = Counter(v.outcome for v in verdicts), [v for v in verdicts if v.outcome == "broken"]
    names = f" ({', '.join(v.law for v in broken)})" if broken else ""
    counts = f"{count['kept']} kept, {count['broken']} broken{names}, {count['skipped']} skipped"
    first = f"; begin with {broken[0].law}: {broken[0].statement}" if broken else ""
    return f"{counts} in {seconds:.1f} s{first}"


def _refuse_sizes(subject: "Subject") -> None:
    """Refuse what a constructor refuses; left to the laws, it would read as a law that is broken."""
    import torch

    from attnlab.laws.subject import CONTEXT, D_MODEL

    own, note = subject.config.model.d_model, ""
    try:
        with torch.device("meta"):
            subject.factory(own, layer=0, n_layers=subject.depth, context=CONTEXT)
        note = (
            f". The laws build layers of d_model={D_MODEL}, whatever model.d_model ({own}) is: choose settings that "
            "fit, such as model.n_heads=4, or attention.n_heads=4 where the variant sets its own"
        )
        for index in range(subject.depth):
            subject.layer(index)
    except UsageError as error:
        raise UsageError(f"{error}{note}") from error
    except Exception:
        return  # a constructor that crashes is for the laws to report
