"""The README.md of an exported folder: what a run was trained on and what it came to, from the run's own files."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from attnlab.config.keys import sentence
from attnlab.config.run_config import RunConfig, class_name
from attnlab.data.tokenizers import Tokenizer
from attnlab.interchange.lm_eval_task import prefix_id
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.files import read_file
from attnlab.store.run_folder import RunFolder
from attnlab.store.status import Status

USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER"{trust})
tokenizer = AutoTokenizer.from_pretrained("FOLDER"{trust})
```"""
LM_EVAL = """What the run was judged by, in lm-eval:

```
attnlab export run=RUN to=lm_eval folder=TASK
lm_eval --model hf --model_args pretrained=FOLDER,prefix_token_id={prefix}{trust} --tasks TASK/task.yaml
```"""
REMOTE = (
    "The folder holds the code that it runs (`trust_remote_code=True`): two files for transformers, and attnlab's "
    "modules word for word in `attnlab_source.py`. Nothing but torch and transformers has to be installed. "
    '`output_attentions=True` gives the map of every layer; with `attn_implementation="eager"` it is written out '
    "through a module `map` of the layer, where a hook can read or replace it."
)


def model_card(run: RunFolder, config: RunConfig, tokenizer: Tokenizer, *, remote: bool) -> str:
    """The card in Markdown."""
    summary = run.read_summary()
    variant = str(summary.get("variant", class_name(config.attention)))
    about = sentence("attention", variant)
    sections = {
        "Use": [
            USE.format(trust=", trust_remote_code=True" if remote else ""),
            *([REMOTE] if remote else []),
            LM_EVAL.format(trust=",trust_remote_code=True" if remote else "", prefix=prefix_id(tokenizer)),
        ],
        "Model": [_list(_model(config, summary, tokenizer))],
        "Training": [_list(_training(config, summary))],
        "Results": [_list(_results(summary))],
        "Verdict": _verdict(run),
        "Limits": [_list(_limits(config))],
        "Provenance": [_list(_provenance(run, summary))],
    }
    title = f"# {variant}, seed {config.seed}"
    head = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags:", "- attnlab"]
    parts = ["\n".join([*head, f"- {json.dumps(variant)}", "---"]), title, *([about] if about else [])]
    for name, blocks in sections.items():
        parts += [f"## {name}", *blocks] if any(blocks) else []
    return "\n\n".join(parts) + "\n"


def _model(config: RunConfig, summary: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    sizes = config.model
    return {
        "attention": f"{class_name(config.attention)}, {sizes.n_layers} layers, width {sizes.d_model}",
        "position": f"{class_name(config.position.inside)} inside, {class_name(config.position.embed)} at the entrance",
        "block": f"{sizes.norm} norm, {sizes.mlp} MLP",
        "parameters": summary.get("parameters"),
        "context": f"{sizes.context} tokens",
        "tokenizer": f"{tokenizer.name}, {tokenizer.n_vocab} ids",
    }


def _training(config: RunConfig, summary: Mapping[str, Any]) -> dict[str, Any]:
    if summary.get("status") == Status.IMPORTED:
        return {"weights": "were imported, not trained here"}
    streams, optimizer = config.streams, config.optimizer
    matched = f", matched by {config.match} to {config.match_to}" if config.match else ""
    return {
        "data": f"{class_name(config.data)}, SHA-256 {summary.get('data_sha256')}",
        "budget": f"{summary.get('step')} of {summary.get('max_steps')} steps of {config.batch_size} rows, "
        f"{summary.get('tokens')} tokens{matched}",
        "optimizer": f"{class_name(optimizer)}, learning rate {optimizer.get('lr')}",
        "seeds": f"{config.seed}; data {streams.data}, init {streams.init}, noise {streams.noise}, eval {streams.eval}",
        "precision": f"{summary.get('precision')} on {summary.get('device')}",
        "weights": "averaged" if summary.get("weights") not in (None, "raw") else None,
    }


def _results(summary: Mapping[str, Any]) -> dict[str, Any]:
    best = summary.get("best_val_loss")
    return {
        "validation loss": _number(summary.get("val_loss")),
        "bits per byte": _number(summary.get("val_bits_per_byte")),
        "best validation loss": None if best is None else f"{best:.4f} at step {summary.get('best_step')}",
        "training loss": _number(summary.get("train_loss")),
        "loss of guessing": _number(summary.get("baseline_loss")),
        "validation accuracy": _number(summary.get("val_accuracy")),
    }


def _verdict(run: RunFolder) -> list[str]:
    """What the report of its experiment says of its variant, if there is one."""
    file = ExperimentFolder(run.path.parent.parent).report / "verdicts.csv"
    try:
        rows = list(csv.DictReader(io.StringIO(read_file(file).decode())))
    except (OSError, ValueError, csv.Error):
        return []
    group, columns = run.path.parent.name, {"folder", "baseline", "verdict", "mean_difference", "low", "high", "n"}
    lines = {
        f"against {row['baseline']}": f"**{row['verdict']}**, by {row['mean_difference']} "
        f"({row['low']} to {row['high']}, {row['n']} seeds)"
        for row in rows
        if columns <= row.keys() and row["folder"] == group
    }
    return [_list(lines)] if lines else []


def _limits(config: RunConfig) -> list[str]:
    return [
        f"Trained on rows of {config.model.context} tokens: longer ones are not what it was made for.",
        "A model of an ablation: made to compare attentions, not to give advice or facts.",
    ]


def _provenance(run: RunFolder, summary: Mapping[str, Any]) -> dict[str, Any]:
    versions, origin = summary.get("versions") or {}, summary.get("imported") or {}
    return {
        "run": run.title,
        "settings": summary.get("hash"),
        "code": summary.get("code"),
        "commit": summary.get("git_commit"),
        "versions": ", ".join(f"{name} {versions[name]}" for name in ("attnlab", "torch") if name in versions) or None,
        "imported": ", ".join(str(origin[name]) for name in ("format", "model_type", "dtype") if name in origin)
        or None,
        **{f"SHA-256 of {name}": value for name, value in (origin.get("sha256") or {}).items()},
    }


def _list(lines: Mapping[str, Any] | Sequence[str]) -> str:
    if isinstance(lines, Mapping):
        return "\n".join(f"- {name}: {value}" for name, value in lines.items() if value is not None)
    return "\n".join(f"- {line}" for line in lines)


def _number(value: Any) -> str | None:
    return f"{value:.4f}" if isinstance(value, float) else None
