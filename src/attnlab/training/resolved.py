"""Settings that are `auto`: what they come to is chosen by the first run of an experiment, and holds for all its runs.

One file of the experiment's folder has the choices, each with what led to it. Whoever comes first writes it, runs and
workers that come at the same time wait, and a run that goes on reads it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from attnlab.config.run_config import fixed_options
from attnlab.errors import UsageError
from attnlab.store.experiment_folder import ExperimentFolder

AUTO = "auto"


def resolve(key: str, setting: Any, choose: Callable[[], Mapping[str, Any]], experiment: ExperimentFolder) -> Any:
    """What a setting comes to: itself, or, where it is `auto`, what the experiment's first run chose.

    `choose` gives a record with the choice as its `value`, and whatever led to it; it is asked once per experiment.
    """
    if setting != AUTO:
        return setting
    try:
        record = experiment.resolve_once(key, choose)
    except ValueError as error:
        raise UsageError(f"{experiment.resolved} cannot be read ({' '.join(str(error).split())})") from error
    return _value(key, record, experiment)


def resolved_before(key: str, setting: Any, experiment: ExperimentFolder) -> Any:
    """The same, as far as a run has chosen already: `auto` if none has. Writes nothing."""
    if setting != AUTO:
        return setting
    try:
        record = experiment.read_resolved().get(key)
    except (OSError, ValueError) as error:
        raise UsageError(f"{experiment.resolved} cannot be read ({' '.join(str(error).split())})") from error
    return AUTO if record is None else _value(key, record, experiment)


def not_here(key: str, value: Any, experiment: ExperimentFolder, reason: str) -> UsageError:
    """That this machine cannot do what an `auto` came to for the runs of the experiment."""
    return UsageError(
        f"{key} (auto) came to {value} for all runs of {experiment} ({experiment.resolved.name}), and {reason}: "
        f"go on where that works, or set {key} and another experiment_name"
    )


def _value(key: str, record: Any, experiment: ExperimentFolder) -> Any:
    value = record.get("value") if isinstance(record, Mapping) else None
    option = fixed_options()[key]
    if value in (None, AUTO) or option.problem(value) is not None:
        raise UsageError(
            f"{experiment.resolved} must say what {key} came to ({option.allowed}); delete it, or set {key}"
        )
    return value
