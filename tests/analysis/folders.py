"""Run folders as training leaves them, written by hand: small, and with results that a test chooses."""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

CONFIG: dict[str, Any] = {
    "experiment_name": "e",
    "seed": 0,
    "streams": {"data": 0, "init": 0, "noise": 0, "eval": 0},
    "batch_size": 2,
    "paths": {"runs": "runs"},
    "model": {"n_layers": 2, "d_model": 8},
    "position": {"inside": {"_target_": "attnlab.attention.rotary.RoPE", "_partial_": True}},
    "attention": {
        "mask": {"_target_": "attnlab.attention.mask.Causal", "_partial_": True},
        "normalizer": {"_target_": "attnlab.attention.normalizer.Softmax", "_partial_": True},
        "_target_": "attnlab.attention.multi_head.MultiHeadAttention",
        "_partial_": True,
    },
    "data": {"_target_": "attnlab.data.corpus.Stories", "path": "data/stories.txt"},
    "optimizer": {"_target_": "attnlab.training.optimizer.AdamW", "lr": 0.002},
    "trainer": {"max_steps": 40, "threads": 1},
}


CODE = {"attnlab.model": "0" * 16, "attnlab.training.module": "1" * 16}


def write_run(
    experiment: Path,
    variant: str,
    seed: int,
    final: float,
    *,
    settings: Mapping[str, Any] | None = None,
    status: str = "finished",
    metric: str = "val/loss",
    curve: Sequence[float] | None = None,
    summary: Mapping[str, Any] | None = None,
    code: Mapping[str, str] | None = CODE,
) -> Path:
    """Write one run; `settings` are dotted keys that make it another configuration, `code` None is from long ago."""
    config = copy.deepcopy(CONFIG) | {"variant": variant}
    if variant != "multi_head":
        config["attention"]["_target_"] = f"attnlab.attention.{variant}.Class"
    for key, value in (settings or {}).items():
        *path, last = key.split(".")
        node = config
        for name in path:
            node = node.setdefault(name, {})
        node[last] = value
    hash8 = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
    config |= {"seed": seed, "streams": dict.fromkeys(config["streams"], seed)}
    digest = hashlib.sha256(json.dumps(code).encode()).hexdigest()
    folder = experiment / f"{variant}-{hash8}{f'.{digest[:4]}' if code else ''}" / f"seed_{seed}"
    folder.mkdir(parents=True)
    if code is not None:
        (folder / "code.json").write_text(json.dumps({"hash": digest, "modules": code}))
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    values = [*(curve or [final + 2, final + 1]), final]
    steps = [40 * i // (len(values) - 1) for i in range(len(values))]
    rows = [f"{step},{metric},{value}" for step, value in zip(steps, values, strict=True)]
    (folder / "metrics.csv").write_text("\n".join(["step,metric,value", *rows, ""]))
    content = {
        **{"status": status, "variant": variant, "hash": hash8, "seed": seed, "step": 40, "parameters": 1000},
        **{"tokens": 640, "tokens_per_second": 100.0 + seed, "train_seconds": 6.4, "run_memory_bytes": 2**20},
        **{"attention_cost": {"forward_flops": 5000, "state_bytes": 640}, "n_vocab": 32, "precision": "fp32"},
        **{"threads": 1, "git_commit": "abc", "git_dirty": False, "data_sha256": "d" * 64, "device": "a CPU"},
        **{"started": "2026-01-02T00:00:00+00:00", "command": f"train.py attention={variant} seed={seed}"},
        **({"val_loss": final} if metric == "val/loss" else {}),
        **({} if code is None else {"code": digest}),
        **(summary or {}),
    }
    (folder / "summary.json").write_text(json.dumps(content))
    return folder


def write_arm(experiment: Path, variant: str, finals: Sequence[float], **options: Any) -> list[Path]:
    """Write one run per result, seeds from 0 on."""
    return [write_run(experiment, variant, seed, final, **options) for seed, final in enumerate(finals)]
