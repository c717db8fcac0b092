"""What makes a run this run: every setting that changes its result, and nothing else."""

import importlib
import inspect
import io
import json
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.cases import one_of_each

from attnlab.config.code import Code
from attnlab.config.compose import compose_config, config_dir
from attnlab.config.run_config import RunConfig, StreamsConfig, fixed_options
from attnlab.store.leaves import leaves
from attnlab.store.run_folder import RunFolder
from attnlab.training.identity import Earlier, Identity, differences, earlier, identify

RESOLVED = {"data.sha256": "d" * 64, "tokenizer.sha256": "e" * 64, "trainer.precision": "fp32", "trainer.threads": 1}
CODE = "c0de" * 16
VARIANTS = sorted(file.stem for file in (config_dir() / "attention").glob("*.yaml"))
# Every key of the default config that changes no result, or whose effect is hashed as content instead.
EXPECTED_NOT_RESULTS = {
    "experiment_name",
    "match_to",  # without a match= it says nothing
    "tuned",  # its rate is optimizer.lr
    "logger.tensorboard._target_",
    "report.baseline",
    "report.metric",
    "report.margin",
    "report.alpha",
    "report.looks",
    "report.sequential",
    "report.hypothesis",
    "report.at_end",
    "plan",
    "assume.peak_flops",
    "assume.mfu",
    "preregister",
    "overwrite",
    "code",
    "resume_from",
    "init_from",  # the hash of its weights is there instead
    "allow_targets",
    "evaluation.lengths",
    "paths.runs",
    "paths.data",
    "paths.cache",
    "maps.steps",
    "maps.probe",
    "maps.prompt",
    "sample.prompt",
    "sample.tokens",
    "sample.temperature",
    "sample.top_k",
    "sample.steps",
    "data._target_",
    "data.path",
    "data.val_fraction",
    "data.test_fraction",
    "data.sha256",
    "data.order",  # epoch is there where it is settled, and so are documents with what parts them
    "data.documents",
    "data.separator",
    "tokenizer._target_",
    "tokenizer.n_vocab",
    "tokenizer.sample_mb",
    "trainer.attention_backend",  # from auto to torch; tests/training/test_backends.py asks for others
    "trainer.nodes",
    "trainer.timeout",
    "trainer.log_every",
    "trainer.checkpoint_every",
    "trainer.progress",
}


@cache
def composed(*overrides: str) -> RunConfig:
    return compose_config(overrides)


def identity(*overrides: str, **resolved: Any) -> Identity:
    return identify(composed(*overrides), "multi_head", RESOLVED | resolved, CODE)


def seeded(seed: int, **apart: int) -> Identity:
    """The identity at a seed that all streams follow but those set apart."""
    streams = StreamsConfig(**dict.fromkeys(("data", "init", "noise", "eval"), seed) | apart)
    return identify(replace(composed(), seed=seed, streams=streams), "multi_head", RESOLVED, CODE)


# Of settings of the model, which take no other.
FIXED = fixed_options()


def another(path: str, value: Any) -> Any:
    """A different value that may stand there."""
    rule = next(iter(FIXED[path].rules), None) if path in FIXED else None
    if rule is not None and rule.choices:
        return next(choice for choice in rule.choices if choice != value)
    if path in (several := {"model.norm_place": "post", "model.canon": "ac"}):  # of which there may be several
        return several[path]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if value == 0 else value * 2
    if value is None:
        return "x" if rule is not None and rule.kind is str else 1
    return f"{value}x" if isinstance(value, str) else [64] if path == "evaluation.lengths" else ["x"]


def with_value(config: RunConfig, path: str, value: Any) -> RunConfig:
    """The config in which the leaf at `path`, such as "optimizer.betas[0]", is `value`."""
    changed = config.as_dict()
    *parents, last = [int(i) if i else word for word, i in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path)]
    node: Any = changed
    for parent in parents:
        node = node[parent]
    node[last] = value
    return RunConfig.of(changed)


def test_a_value_can_be_put_anywhere() -> None:
    config = composed()
    assert with_value(config, "optimizer.betas[1]", 9).optimizer["betas"] == [config.optimizer["betas"][0], 9]
    assert with_value(config, "seed", 9) == replace(config, seed=9) != config


@pytest.mark.parametrize(
    "choices",
    [[], ["optimizer=muon", "attention=gated_delta", "model=small"], ["attention=hybrid", "position=learned"]],
)
def test_settings_in_the_hash(choices: list[str]) -> None:
    """Every setting is in the hash but those that change no result."""
    config = composed(*choices)
    # Without what the machine decides, so that the settings behind it are seen, too.
    silent = set()
    for path, value in leaves(config.as_dict()):
        usual = with_value(config, "model.parallel", True) if path == "model.norm_shared" else config
        changed = with_value(usual, path, another(path, value))
        if identify(changed, "some", {}, CODE).hash8 == identify(usual, "some", {}, CODE).hash8:
            silent.add(path)
    assert silent == EXPECTED_NOT_RESULTS


@pytest.mark.parametrize("variant", one_of_each())
def test_options_in_the_hash(variant: str) -> None:
    """Every option of every attention is in the hash."""
    config = composed(f"attention={variant}")
    usual = identify(config, variant, {}, CODE).hash8
    options = [(path, value) for path, value in leaves(config.as_dict()) if path.startswith("attention.")]
    assert options
    for path, value in options:
        assert identify(with_value(config, path, another(path, value)), variant, {}, CODE).hash8 != usual, path


@pytest.mark.parametrize("key", [*RESOLVED, "resume_from"])
def test_decisions_in_the_hash(key: str) -> None:
    """What machine and files decide is in the hash."""
    assert identity(**{key: "another"}).hash8 != identity().hash8


def test_decisions_replace_auto() -> None:
    """What the machine decided replaces what was asked for."""
    asked = identity("trainer.precision=fp32", "trainer.threads=1")
    assert asked.hash8 == identity("trainer.precision=auto").hash8
    assert asked.fingerprint["trainer.precision"] == "fp32"


def test_seed_is_not_in_the_hash() -> None:
    """The seed is in the folder and not in the hash."""
    first, second = seeded(0), seeded(7)
    assert first.hash8 == second.hash8 and first.name == second.name
    assert first.folder("runs", "mine").path == Path("runs/mine") / first.name / "seed_0"
    assert second.folder("runs", "mine").path == Path("runs/mine") / first.name / "seed_7"
    assert first.fingerprint != second.fingerprint, "a checkpoint of another seed is another run's"


@pytest.mark.parametrize("stream", ["data", "init", "noise", "eval"])
def test_a_stream_set_apart_is_in_the_hash(stream: str) -> None:
    together, apart = seeded(3), seeded(3, **{stream: 4})
    assert apart.hash8 != together.hash8
    assert apart.hash8 == seeded(5, **{stream: 4}).hash8, "of all seeds that it is apart from"
    assert apart.hash8 != seeded(3, **{stream: 5}).hash8
    assert seeded(3, **{stream: 3}).hash8 == together.hash8


def test_each_stream_apart_is_a_run_of_its_own() -> None:
    assert len({seeded(0, **{stream: 4}).hash8 for stream in ("data", "init", "noise", "eval")}) == 4


def test_a_command_line_means_the_same() -> None:
    assert identity("seed=7") == seeded(7)
    assert identity("seed=7", "streams.noise=4") == seeded(7, noise=4)


def test_order_of_settings() -> None:
    """The order of the settings does not matter."""
    config = composed()
    turned = replace(config, attention=dict(reversed(config.attention.items())))
    assert identify(turned, "some", RESOLVED, CODE).hash8 == identify(config, "some", RESOLVED, CODE).hash8


def test_the_name_is_the_variant_and_two_hashes() -> None:
    for variant in (*VARIANTS, "gqa+window+sigmoid"):
        found = identify(composed(), variant, RESOLVED, CODE)
        assert re.fullmatch(re.escape(variant) + r"-[0-9a-f]{8}\.c0de", found.name)
        folder = str(found.folder("runs", "my-test_1.0"))
        assert not set(folder) & set("= ,:\\\n")


def test_fingerprint_round_trip() -> None:
    """A fingerprint survives a checkpoint and a JSON file."""
    ours = identity("optimizer=muon").fingerprint
    file = io.BytesIO()
    torch.save({"fingerprint": ours}, file)
    file.seek(0)
    assert differences(ours, torch.load(file, weights_only=True)["fingerprint"]) == []
    assert differences(ours, json.loads(json.dumps(ours))) == []


def test_differences() -> None:
    """Differences list each key with both values in order."""
    ours = {"seed": 0, "b": None, "a": "x", "same": [1]}
    theirs = {"seed": 1, "b": 2, "c": 3.5, "same": [1]}
    assert differences(ours, theirs) == [
        "a (x here, absent there)",
        "b (None here, 2 there)",
        "c (absent here, 3.5 there)",
        "seed (0 here, 1 there)",
    ]
    assert differences(ours, ours) == []


keys = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2))


@settings(deadline=None, derandomize=True)
@given(keys, keys)
def test_fingerprints_differ(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Fingerprints differ exactly where their values do."""
    found = [remark.split(" ")[0] for remark in differences(ours, theirs)]
    assert found == [key for key in "abcd" if (key in ours, ours.get(key)) != (key in theirs, theirs.get(key))]


def test_variants_differ_by_key() -> None:
    """Two variants at the same settings differ by key."""
    ours, theirs = (
        identify(composed(f"attention={name}"), name, RESOLVED, CODE).fingerprint for name in ("multi_head", "gqa")
    )
    assert differences(ours, theirs) == ["attention.n_kv_heads (None here, 2 there)"]


def test_moved_class() -> None:
    """A class of attnlab is known by its name, in whatever module it stands; a user's by its full name."""
    config, key = composed(), "attention.mask._target_"
    usual = identify(config, "some", RESOLVED, CODE).hash8

    def hash8(target: str) -> str:
        return identify(with_value(config, key, target), "some", RESOLVED, CODE).hash8

    assert config.attention["mask"]["_target_"] == "attnlab.attention.mask.Causal"
    assert hash8("attnlab.elsewhere.Causal") == usual != hash8("attnlab.attention.mask.Window")
    assert len({usual, hash8("mine.Causal"), hash8("mine.mask.Causal"), hash8("yours.Causal")}) == 4


def test_one_class_of_a_name() -> None:
    """No two classes or functions of attnlab that a config can name are called alike."""
    targets = {
        str(value)
        for file in config_dir().glob("**/*.yaml")
        for key, value in leaves(yaml.safe_load(file.read_text(encoding="utf-8")))
        if key.endswith("_target_")
    }
    homes = {target.rpartition(".")[0] for target in targets}
    assert len(homes) > 20
    names = [
        name
        for home in sorted(homes)
        for name, value in vars(importlib.import_module(home)).items()
        if getattr(value, "__module__", None) == home and (inspect.isclass(value) or inspect.isfunction(value))
        if not name.startswith("_")
        and not (inspect.isclass(value) and issubclass(value, tuple))  # no config builds those
    ]
    assert [name for name, count in Counter(names).items() if count > 1] == []


def begun(folder: RunFolder, code: Code, status: str | None, step: int = 5) -> None:
    """A run as other code has left it."""
    folder.checkpoints.path.mkdir(parents=True)
    folder.checkpoints.file(step).write_bytes(b"")
    folder.write_code(code.described(), None)
    if status is not None:
        folder.write_summary({"status": status}, {})


def test_earlier(tmp_path: Path) -> None:
    """The same run by other code: what is finished goes first, and nothing does once this code has begun."""
    codes = {name: Code({"a": "1", "b": name}) for name in ("ours", "begun", "finished", "of another seed")}
    ours, *others = (identity()._replace(code=code.hash) for code in codes.values())

    def found() -> Earlier | None:
        return earlier(ours, codes["ours"], tmp_path, "e")

    assert found() is None
    begun(others[2]._replace(seed=1).folder(tmp_path, "e"), codes["of another seed"], "finished")
    assert found() is None
    begun(others[0].folder(tmp_path, "e"), codes["begun"], None)
    assert found() == Earlier(others[0], others[0].folder(tmp_path, "e"), False, ["b"])
    begun(others[1].folder(tmp_path, "e"), codes["finished"], "finished")
    assert found() == Earlier(others[1], others[1].folder(tmp_path, "e"), True, ["b"])
    assert str(found()) == "was made by other code (changed: b)"
    begun(ours.folder(tmp_path, "e"), codes["ours"], None)
    assert found() is None
