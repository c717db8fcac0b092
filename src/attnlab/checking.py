"""The laws of attnlab.contract for one variant, as a table that grows while they run."""

import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from attnlab.complaints import explain
from attnlab.config import with_plus
from attnlab.contract import LAWS, Subject, Verdict, judge, subject_of
from attnlab.contract.base import CONTEXT, D_MODEL
from attnlab.errors import AttnlabError, UsageError
from attnlab.keys import config_dir as shipped
from attnlab.keys import options
from attnlab.rules import nearest

NAME = re.compile(r"[^\W\d][\w./-]*")
WIDTH = max(map(len, LAWS)) + 2


def keeps_all(
    attention: str,
    *,
    config_dir: str | None = None,
    allow_targets: Sequence[str] = (),
    laws: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> bool:
    """Judge a variant, print each verdict as it is known, and say whether no law is broken. No laws means all."""
    for law in laws:
        if law not in LAWS:
            raise UsageError(f"laws ({law}) must be among: {', '.join(LAWS)}{nearest(law, LAWS)}")
    chosen = list(dict.fromkeys(laws)) or list(LAWS)
    subject = composed(attention, config_dir, allow_targets, with_plus(overrides))
    _refuse_sizes(subject)
    print(f"attention={attention} ({subject.config['attention']['_target_']}), layers of d_model={D_MODEL}")
    began, verdicts = time.perf_counter(), []
    for law in chosen:
        print(f"  {law:{WIDTH}}", end="", flush=True)  # a law may take seconds: show which one is at work
        start = time.perf_counter()
        verdicts.append(judge(law, subject))
        print(f"{verdicts[-1].outcome:8}{time.perf_counter() - start:6.1f} s", flush=True)
        if verdicts[-1].detail:
            print(f"      {verdicts[-1].detail}", flush=True)
    print(_sum(verdicts, time.perf_counter() - began))
    return all(verdict.outcome != "broken" for verdict in verdicts)


def _sum(verdicts: Sequence[Verdict], seconds: float) -> str:
    count, broken = Counter(v.outcome for v in verdicts), [v for v in verdicts if v.outcome == "broken"]
    names = f" ({', '.join(v.law for v in broken)})" if broken else ""
    counts = f"{count['kept']} kept, {count['broken']} broken{names}, {count['skipped']} skipped"
    first = f"; begin with {broken[0].law}: {broken[0].statement}" if broken else ""
    return f"{counts} in {seconds:.1f} s{first}"


def composed(
    attention: str,
    folder: str | None,
    packages: Sequence[str],
    overrides: Sequence[str],
    command: str = "attnlab check",
) -> Subject:
    """The variant of this name with these settings, from our YAML files and those of a folder of the user's."""
    folders = [] if folder is None else [folder]
    if folder is not None:
        _refuse_folder(folder, attention)
    if packages and folder is not None and (home := str(Path(folder).resolve().parent)) not in sys.path:
        sys.path.append(home)  # beside its configs, where `attnlab new` puts a class; last, so that it hides nothing
    words = [f"attention={attention}", *overrides]
    with _as_typed_for_train(folders, words):
        if not NAME.fullmatch(attention):
            raise UsageError(f"attention ({attention}) must be one of: {', '.join(options('attention'))}")
        try:
            return subject_of(attention, [*overrides, f"allow_targets=[{','.join(packages)}]"], folders)
        except AttnlabError:
            raise
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
            text = explain(error, words).replace("add -m to run each", f"{command} takes one")
            raise UsageError(text) from error


def _refuse_folder(folder: str, attention: str) -> None:
    if not Path(folder).is_dir():
        raise UsageError(f"config_dir ({folder}) is not a folder")
    if unreadable := sorted(set(str(Path(folder).absolute())) & set(",[]{}'\"$")):
        raise UsageError(f"config_dir ({folder}) lies where Hydra cannot look: its path holds {' '.join(unreadable)}")
    own, ours = (Path(root) / "attention" / f"{attention}.yaml" for root in (folder, shipped()))
    if own.is_file() and ours.is_file() and not own.samefile(ours):
        raise UsageError(f"attention ({attention}) is shipped with attnlab, which would hide {own}: rename yours")


@contextmanager
def _as_typed_for_train(folders: Sequence[str], words: Sequence[str]) -> Iterator[None]:
    """Inside the block, sys.argv is what train.py would get: complaints look there for the user's folder."""
    usual = sys.argv
    sys.argv = ["train.py", *(f"--config-dir={folder}" for folder in folders), *words]
    try:
        yield
    finally:
        sys.argv = usual


def _refuse_sizes(subject: Subject) -> None:
    """Refuse what a constructor refuses; left to the laws, it would read as a law that is broken."""
    own, note = int(subject.config["model"]["d_model"]), ""
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
