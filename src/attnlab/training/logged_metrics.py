"""Which metrics a run will log, so that a report is not asked for one that never comes."""

from collections.abc import Iterator, Sequence

import numpy as np

from attnlab.build import check_construction, instantiate
from attnlab.config.metric_kinds import check_logged, parse_metric
from attnlab.config.run_config import RunConfig
from attnlab.data.dataset import Dataset
from attnlab.data.load import load_dataset
from attnlab.data.task import Task
from attnlab.inspection.head_metrics import DIVERSITY, NEGATIVE_SHARE, PER_HEAD, ROW_SUM, SILENCED_MEAN, SILENCED_ZERO
from attnlab.inspection.task_metrics import ANSWER_MASS, SINK_RATE, token_kinds
from attnlab.model import GPT
from attnlab.training.extrapolation import BY_SEGMENT, SCORES, check_lengths
from attnlab.training.scoring import ACCURACY, ERROR, SEGMENT_LOSS, SEGMENTS, SLICE_ACCURACY, SLICE_COUNT, SLICE_LOSS

KEY = "report.metric"


def check_metric(config: RunConfig, model: GPT, dataset: Dataset) -> None:
    """Refuse a metric of the report that such a run does not log. Callbacks may log what they like, and heads may be
    silenced later."""
    text = config.report.metric
    if text is None:
        return
    if config.callbacks or text.startswith((SILENCED_ZERO, SILENCED_MEAN)):
        parse_metric(text, KEY)
    else:
        check_logged(text, logged_metrics(config, model, dataset), KEY)


def metrics_of_config(config: RunConfig) -> list[str]:
    """The metrics that a run of a checked config will log; tokenises a text that was not yet."""
    source, vocabulary = instantiate(config, "data"), instantiate(config, "tokenizer")
    _, dataset = load_dataset(source, vocabulary, config.paths.cache)
    dataset.check_context(config.model.context)
    return logged_metrics(config, check_construction(config), dataset)


def logged_metrics(config: RunConfig, model: GPT, dataset: Dataset) -> list[str]:
    """Their names; those that stand only beyond what a position knows, or only at some kinds of map, among them."""
    names = ["val/loss", "train/loss", "optim/grad_norm", "perf/tokens_per_second"]
    if dataset.scored_bytes is not None:
        names.append("val/bits_per_byte")
    if isinstance(dataset, Task):
        rows = dataset.validation(config.model.context, config.streams.eval)
        slices = [dataset.slice_names[i] for i in np.unique(rows.slices[rows.asked])]
        names += [ACCURACY, ERROR, "val/bayes_loss"]
        names += [f"{group}{name}" for name in slices for group in (SLICE_ACCURACY, SLICE_LOSS, SLICE_COUNT)]
        names += [f"{SEGMENT_LOSS}{number}" for number in range(1, SEGMENTS + 1)]
    for factor in (1, *lengths) if (lengths := check_lengths(config.evaluation.lengths)) else ():
        names += [f"extrapolation_{name}/x{factor}" for name in SCORES if factor > 1 or "beyond" not in name]
        parts = range(1, factor + 1) if factor > 1 else ()
        names += [f"extrapolation_{name}/x{factor}/{number}" for name in BY_SEGMENT for number in parts]
    return [*names, *(_of_heads(config, model, dataset) if config.maps.steps else ())]


def _of_heads(config: RunConfig, model: GPT, dataset: Dataset) -> Iterator[str]:
    yield SINK_RATE
    kinds = dict.fromkeys(token_kinds(dataset.names)) if isinstance(dataset, Task) else ()
    for layer, block in enumerate(model.layers):
        kind = block.attention.traits.map_kind
        if kind == "none":
            continue
        names: Sequence[str] = [name for name in PER_HEAD if name not in (ROW_SUM, NEGATIVE_SHARE)]
        names = [*names, *([ROW_SUM] if kind != "probability" else []), *([NEGATIVE_SHARE] if kind == "signed" else [])]
        names = [*names, *([ANSWER_MASS] if kinds else []), *(f"{ROW_SUM}/{kind}" for kind in kinds)]
        heads = range(getattr(block.attention, "n_heads", config.model.n_heads))
        yield from (f"{name}/L{layer:02d}H{head:02d}" for name in names for head in heads)
        yield f"{DIVERSITY}/L{layer:02d}"
