"""From folders of runs to the arms of an experiment: everything that is read from disk for a comparison is read here.

Runs become configurations, configurations become arms; the learning-rate curves of other experiments, which chose the
rates of these runs, are read beside them.
"""

from collections.abc import Mapping
from pathlib import Path

from attnlab.analysis import codes
from attnlab.analysis.arm_names import named_by_change
from attnlab.analysis.arms import Arm, Arms, arm_of_runs
from attnlab.analysis.groups import RATE, Group, apart_by, groups_by_rate, groups_of
from attnlab.analysis.lr_curve import LRCurve, fit_lr_curve
from attnlab.analysis.reading import Experiment, read_experiment
from attnlab.analysis.tuned_variants import Tuning, curve_of, read_tuning, without_curve
from attnlab.errors import AttnlabError, UsageError
from attnlab.store.names import CONFIG


def arms_of(experiment: Experiment, lower_is_better: bool, alpha: float, code: str = "same") -> Arms:
    """The arms of an experiment. With `code` "any", runs that differ in nothing but seed and code belong together."""
    groups = groups_of(experiment.runs)
    if not groups:
        raise UsageError(f"experiment ({experiment.folder}) holds no run with a readable {CONFIG}")
    remarks = codes.remarks(groups, code)
    if code == "any":
        groups = codes.across_codes(groups)
    tunings = {group.tuned: _tuning(group.tuned, experiment, lower_is_better, alpha) for group in groups if group.tuned}
    arms = []
    for members in apart_by(groups, {RATE}):
        by_rate = groups_by_rate(members)
        if len(by_rate) < 2 or len(by_rate) < len(members):
            arms += [_single(group, tunings) for group in members]
            continue
        curve = fit_lr_curve({rate: g.results for rate, g in by_rate.items()}, lower_is_better, alpha)
        arms.append(_tuned(by_rate[curve.chosen], curve))
    sweep = experiment.declared.get("design")
    single_rates = named_by_change([_arm(group) for group in groups], sweep)
    return Arms(named_by_change(arms, sweep), single_rates, remarks)


def _arm(group: Group) -> Arm:
    return arm_of_runs(group.variant, group.folder, group.settings, group.runs)


def _single(group: Group, tunings: Mapping[str, Tuning | AttnlabError]) -> Arm:
    """A configuration at one learning rate, which another experiment may have chosen."""
    if group.tuned is None:
        return _arm(group)
    tuning = tunings[group.tuned]
    if isinstance(tuning, AttnlabError):
        return _tuned(group, without_curve(group, f"tuned elsewhere, and no curve can be shown: {tuning}"))
    return _tuned(group, curve_of(group, tuning))


def _tuned(group: Group, curve: LRCurve) -> Arm:
    runs = [run for run in group.runs if run.seed not in curve.tuning_seeds]
    # What was tuned is no setting to compare.
    settings = {key: value for key, value in group.settings.items() if key not in curve.tuned_keys}
    return arm_of_runs(group.variant, group.folder, settings, runs, curve)


def _tuning(named: str, experiment: Experiment, lower_is_better: bool, alpha: float) -> Tuning | AttnlabError:
    """The tuning experiment that runs name, or why it cannot be read."""
    # As `attnlab.config.tuned_settings` reads it.
    path = Path(named) if Path(named).suffix != ".yaml" else Path(named).parent
    candidates = (path, experiment.folder.path.parent / path.name)  # where it was, or moved along
    folder = next((each for each in candidates if each.is_dir()), path)
    try:
        return Tuning(folder, read_tuning(read_experiment(folder, experiment.metric), lower_is_better, alpha))
    except AttnlabError as error:
        return error
