"""Old names and what they are called today: the one place that knows both.

Runs that were recorded under an old name are read as if they had the new one; a YAML of a user that has it is refused
with the new one in the message. The hash of what was asked keeps the first name that a class had.
"""

from collections.abc import Mapping
from typing import Any

MODULES = {  # module of a `_target_` -> where its classes are now
    "attnlab.position": "attnlab.attention.position",
}
CLASSES = {  # full name of a class that was renamed or moved alone, in its module of `MODULES` -> full name of today
    f"attnlab.attention.position.{name}": f"attnlab.attention.{module}.{name}"
    for module, names in {
        "rotary": ("RoPE", "YaRN"),
        "xpos": ("XPos",),
        "position_bias": ("ALiBi", "T5Bias", "Kerple", "FIRE"),
        "embedding": ("LearnedEmbedding", "SinusoidalEmbedding"),
    }.items()
    for name in names
} | {
    "attnlab.data.corpus.File": "attnlab.data.text_files.File",
    "attnlab.attention.decay.Decay": "attnlab.attention.decay.NoDecay",
    "attnlab.attention.feature_map.FeatureMap": "attnlab.attention.feature_map.IdentityMap",
    "attnlab.attention.gate.Gate": "attnlab.attention.gate.NoGate",
    "attnlab.attention.output_norm.OutputNorm": "attnlab.attention.output_norm.NoOutputNorm",
    "attnlab.attention.write.Write": "attnlab.attention.write.AddWrite",
    "attnlab.attention.rotary.XPos": "attnlab.attention.xpos.XPos",
    "attnlab.attention.score.SSMax": "attnlab.attention.scalable_softmax.SSMax",
    "attnlab.attention.position.Position": "attnlab.attention.position.NoPE",
    "attnlab.attention.position.Embedding": "attnlab.attention.embedding.NoEmbedding",
    "attnlab.attention.embedding.Embedding": "attnlab.attention.embedding.NoEmbedding",
}
SUMMARY_KEYS = {"unigram_loss": "baseline_loss", "births": "emergence_steps"}  # keys of summary.json
METRICS: dict[str, str] = {}  # names in metrics.csv


def current(target: str) -> str:
    """The name that a class has today."""
    module, _, name = target.rpartition(".")
    moved = f"{MODULES.get(module, module)}.{name}"
    return CLASSES.get(moved, moved)


def first_name(target: str) -> str:
    """What a class of attnlab was called when it first entered a hash, without its module."""
    names = {new: old for old, new in CLASSES.items()}
    return names.get(target, target).rpartition(".")[2]


def with_current_targets(node: Any) -> Any:
    """A stored config with every `_target_` by the name of today."""
    if isinstance(node, list):
        return [with_current_targets(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    return {
        key: current(value) if key == "_target_" and isinstance(value, str) else with_current_targets(value)
        for key, value in node.items()
    }


def with_current_keys(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A stored summary by the keys of today."""
    return {SUMMARY_KEYS.get(key, key): value for key, value in summary.items()}


def with_first_keys(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary by the keys that its digest was taken with, whatever they are called today."""
    names = {new: old for old, new in SUMMARY_KEYS.items()}
    return {names.get(key, key): value for key, value in summary.items()}
