"""A report reads settings and results of any type: each odd value is a damaged folder, one line, or harmless."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.reliability.strangers import finished_run, looked_at
from tests.training.launch import unseal

ODD: tuple[Any, ...] = ([1, [2]], {"a": {"b": 1}}, [], {}, None, -3, 0.5, "word", True)
FORMS = {
    "config.yaml": (yaml.safe_load, lambda content: yaml.safe_dump(content, sort_keys=False)),
    "summary.json": (json.loads, json.dumps),
}
SAMPLE = 10  # cases of the fast part


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of two variants, unsealed: with digests, every change is noticed before it is read."""
    first = finished_run(tmp_path_factory.mktemp("odd"))
    folders = []
    for variant in ("multi_head", "gqa"):
        for seed in (0, 1):
            config, summary = (load((first / name).read_text()) for name, (load, _) in FORMS.items())
            config |= {"variant": variant, "seed": seed, "streams": dict.fromkeys(config["streams"], seed)}
            config["attention"] |= {} if variant == "multi_head" else {"head_dim": 8}
            summary |= {"variant": variant, "seed": seed}
            run = first.parents[1] / first.parent.name.replace("multi_head", variant) / f"seed_{seed}"
            if run != first:
                shutil.copytree(first, run)
            for (name, (_, dump)), content in zip(FORMS.items(), (config, summary), strict=True):
                (run / name).write_text(dump(content))
            unseal(run)
            folders.append(run)
    return folders


def places(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything that a config or a summary holds."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        yield (*above, key)
        yield from places(value, (*above, key))


def changed(text: str, name: str, path: tuple[Any, ...], value: Any) -> str:
    load, dump = FORMS[name]
    content = node = load(text)
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return dump(content)


def cases(run: Path) -> list[tuple[str, tuple[Any, ...], Any]]:
    return [
        (name, path, value)
        for name, (load, _) in FORMS.items()
        for path in places(load((run / name).read_text()))
        for value in ODD
    ]


@pytest.mark.parametrize("n", [SAMPLE, pytest.param(None, marks=pytest.mark.slow)])
def test_odd_values(runs: list[Path], tmp_path: Path, n: int | None) -> None:
    """One run of a variant, or both, hold another value than they should anywhere in config.yaml or summary.json."""
    whole, faults = cases(runs[2]), []
    chosen = whole if n is None else random.Random(len(whole)).sample(whole, n)
    texts = {
        path: data for run in runs[2:] for path, data in ((run / name, (run / name).read_text()) for name in FORMS)
    }
    for i, (name, path, value) in enumerate(chosen):
        for run in runs[2 : 3 + i % 2]:
            (run / name).write_text(changed(texts[run / name], name, path, value))
        outcome = looked_at(runs[0], "report", tmp_path / "out")
        if outcome.fault or (outcome.code == 0 and "gqa" not in outcome.out):
            faults.append(f"{name} {'.'.join(map(str, path))}: {value!r}: {outcome.fault or outcome.out[-300:]}")
        for run in runs[2:]:
            (run / name).write_text(texts[run / name])
    print(f"odd values: {len(chosen) - len(faults)} of {len(chosen)} end in a report or in one line")
    assert not faults, "\n".join(faults)
