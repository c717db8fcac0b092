"""What a config may hold, what it is composed to, and how a variant is called."""

import json
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf
from tests.laws.cases import ONE_OF_EACH

import attnlab.sweep.sweeper
import attnlab.training.run
from attnlab.cli._arguments import parsed
from attnlab.config.compose import compose_config, for_each_job, with_plus
from attnlab.config.keys import (
    LISTS,
    config_dir,
    fixed_keys,
    groups,
    nodes,
    options,
    shipped_settings,
    unknown_key,
)
from attnlab.config.run_config import SECTIONS, RunConfig, fixed_options
from attnlab.data.text_files import File
from attnlab.errors import UsageError, nearest, shown
from attnlab.options import options_of
from attnlab.options.rules import Rule, as_typed, nearest_key, refusal
from attnlab.store.leaves import leaves
from attnlab.sweep.jobs import Composer, Job

TRAIN = Path(__file__).parents[2] / "train.py"
GROUPS = ("model", "position", "data", "tokenizer", "optimizer", "trainer")


def refused(*overrides: str, config_dirs: tuple[Path, ...] = ()) -> str:
    with pytest.raises(UsageError) as error:
        compose_config(overrides, config_dirs)
    assert "\n" not in str(error.value)
    return str(error.value)


# Rules


@pytest.mark.parametrize(
    ("rule", "fine", "wrong"),
    [
        (Rule(int), [0, -3, 10**18], [10**30, 1.0, True, "1", None, [1]]),
        (Rule(int, least=1), [1, 7], [0, -1, 0.5]),
        (Rule(int, least=2, most=4), [2, 4], [1, 5]),
        (Rule(float), [0, 1, -2.5], ["1", True, None, float("nan"), float("inf"), -float("inf")]),
        (Rule(float, above=0), [1e-9, 3], [0, 0.0, -1]),
        (Rule(float, least=0, below=1), [0, 0.999], [1, 1.0, -0.1]),
        (Rule(float, optional=True), [None, 2], ["null"]),
        (Rule(bool), [True, False], [0, 1, "true", None]),
        (Rule(str), ["", "a"], [1, None, True, ["a"]]),
        (Rule(str, least=1), ["a"], ["", None]),
        (Rule(str, choices=("a", "b")), ["a", "b"], ["c", "", "A", None]),
        (
            Rule(float, least=0, below=1, length=2),
            [[0.9, 0.95], [0, 0]],
            [[0.9], [0.9, 1.0], 0.9, [0.9, 0.9, 0.9], None],
        ),
    ],
)
def test_a_rule_accepts_what_it_says(rule: Rule, fine: list[Any], wrong: list[Any]) -> None:
    assert [value for value in fine if not rule.accepts(value)] == []
    assert [value for value in wrong if rule.accepts(value)] == []


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Rule(int, least=1), "an integer of at least 1"),
        (Rule(int, least=2, most=60), "an integer of at least 2, at most 60"),
        (Rule(int, least=0, most=10**18), "an integer of at least 0, at most 1e+18"),
        (Rule(float, above=0, below=1), "a number above 0, below 1"),
        (Rule(float, above=0, optional=True), "null or a number above 0"),
        (Rule(bool), "true or false"),
        (Rule(str), "text"),
        (Rule(str, least=1, optional=True), "null or non-empty text"),
        (Rule(str, choices=("a", "b")), "a | b"),
        (Rule(float, length=2), "a list of 2, each a number"),
    ],
)
def test_a_rule_says_what_it_accepts(rule: Rule, text: str) -> None:
    assert str(rule) == text


@pytest.mark.parametrize(
    ("key", "value", "rule", "line"),
    [
        ("a", None, Rule(int), "a (null) must be an integer"),
        ("a", True, Rule(int), "a (true) must be an integer"),
        ("a", 3.0, Rule(int), "a (3.0) must be an integer; write 3"),
        ("a", 3, Rule(str), """a (3) must be text; as text, write 'a="3"'"""),
        ("a", [1], Rule(str), "a ([1]) must be text"),
        ("a", 3, Rule(str, choices=("b",)), "a (3) must be b"),
    ],
)
def test_refusals(key: str, value: Any, rule: Rule, line: str) -> None:
    """A refusal names key value and what is allowed."""
    assert refusal(key, value, rule) == line


@pytest.mark.parametrize("text", ["two words", "it's", 'say "so"', "a, b", "wo {or} [so]?", "1984", "", "a=b", "5 €"])
def test_hints_can_be_typed(text: str) -> None:
    """What we tell to type arrives as it is meant."""
    (word,) = shlex.split(as_typed("maps.prompt", text))
    override = OverridesParser.create().parse_override(word)
    assert (override.key_or_group, str(override.value())) == ("maps.prompt", text)
    assert not isinstance(override.value(), int)


def test_shown() -> None:
    """Values are shown as they are written in a config."""
    assert [shown(value) for value in (None, True, False, 0.1, "a", [1, 2])] == [
        "null",
        "true",
        "false",
        "0.1",
        "a",
        "[1, 2]",
    ]


def test_near_words_are_found_and_far_ones_are_not() -> None:
    assert nearest("gq", ["gqa", "linear"]) == "; did you mean 'gqa'?" and nearest("zebra", ["gqa", "linear"]) == ""
    keys = ["seed", "model", "model.d_model", "model.n_layers", "optimizer.lr", "maps.steps", "sample.steps"]
    assert nearest_key("seeed", keys) == ["seed"]
    assert nearest_key("model.n_layer", keys) == ["model.n_layers"]
    assert nearest_key("lr", keys) == ["optimizer.lr"] and nearest_key("n_layers", keys) == ["model.n_layers"]
    assert nearest_key("steps", keys) == ["maps.steps", "sample.steps"]
    assert nearest_key("model.zebra", keys) == []


# Keys


def test_leaves() -> None:
    """Leaves are everything that holds nothing else."""
    plain = {"a": 1, "b": {"c": [2, {"d": 3}], "e": {}, "f": []}, "g": None}
    assert dict(leaves(plain)) == {"a": 1, "b.c[0]": 2, "b.c[1].d": 3, "b.e": {}, "b.f": [], "g": None}


def test_nodes_know_whose_settings_they_are() -> None:
    plain = {"a": {"_target_": "p.A", "b": {"c": 1}, "d": {"_target_": "q.D", "e": 2}}, "f": [3]}
    assert [(path, owner) for path, _, owner in nodes(plain)] == [
        ("a", ""),
        ("a._target_", "p.A"),
        ("a.b", "p.A"),
        ("a.b.c", "p.A"),
        ("a.d", "p.A"),
        ("a.d._target_", "q.D"),
        ("a.d.e", "q.D"),
        ("f", ""),
    ]


def test_groups() -> None:
    """Groups and options are the folders and their files."""
    assert {"attention", "attention/mask", "position", "experiment", "sweep"} <= set(groups())
    assert "." not in groups()
    assert options("attention/mask") == sorted(p.stem for p in (config_dir() / "attention" / "mask").glob("*.yaml"))


def test_fixed_keys() -> None:
    """Fixed keys are those of the main config the model and the trainer."""
    given = {path for path, _, _ in nodes(compose_config().as_dict())}
    assert fixed_keys() <= given
    assert {"seed", "maps", "maps.steps", "model.d_model", "trainer.max_steps", "paths.runs"} <= fixed_keys()


def test_key_of_other_options() -> None:
    """A key that other options have is found with them."""
    assert unknown_key("attention.mask.window", ["attention.mask"]) == (
        "attention.mask.window is not a key of this config: it comes with attention/mask=window or "
        "attention/mask=dilated or attention/mask=local_global or attention/mask=window_sinks"
    )
    assert "'attention.mask.window' (it comes with attention/mask=window)" in unknown_key("attention.window", ["seed"])


# Every shipped option, and every rule


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    """Every key of every option, with its value."""
    found: dict[str, Any] = {}
    chosen = [[f"{group}={name}"] for group in GROUPS for name in options(group)]
    chosen += [[f"attention={name}"] for name in sorted(ONE_OF_EACH)]  # the laws compose all
    chosen += [["attention/score=[scaled,softcap]"], ["attention=linear", "attention/write=delta"]]
    for words in chosen:
        found |= {path: value for path, value, _ in nodes(compose_config(words).as_dict())}
    return found


def test_every_shipped_option_passes_the_check(shipped: dict[str, Any]) -> None:
    assert {"optimizer.adamw_lr", "attention.kinds.local.mask.window", "attention.score.softcap.cap"} <= set(shipped)


def test_record_keys() -> None:
    """The record of a run's config declares the keys of the YAML files, neither more nor less."""
    sections = {f"{group}.{name}" for group, kind in SECTIONS.items() for name in options_of(kind) or {}}
    assert {key for key in fixed_keys() if "." in key} == sections - {"position.embed", "position.inside"}
    groups = {*GROUPS, *LISTS, "attention", "allow_targets", "more", "baseline", "environment"}
    assert {key for key in fixed_keys() if "." not in key} | groups == set(options_of(RunConfig) or {})
    assert set(fixed_options()) == {key for key, value in leaves(shipped_settings()) if not isinstance(value, list)}


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["attention=gqa", "logger=[]", "callbacks=[early_stopping]"],
        ["data=mqar", "+card=mqar"],
        ["model.mlp_ratio=3", "tokenizer.n_vocab=null", "trainer=gpu"],
    ],
)
def test_record_is_stored_as_it_was_composed(words: list[str]) -> None:
    """Every value and the order of the keys."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        composed = OmegaConf.to_container(compose("train", overrides=words), resolve=True)
    assert isinstance(composed, dict)
    assert json.dumps(RunConfig.of(composed).as_dict()) == json.dumps(composed)


def test_record_of_an_older_run() -> None:
    """What it does not have is as it is shipped; a key that is no more is left out, but not one of the model."""
    content = compose_config(["seed=3"]).as_dict()
    del content["trainer"]["devices"], content["report"], content["streams"]["eval"]
    content["trainer"]["speed"] = 1
    config = RunConfig.of(content)
    assert (config.trainer.devices, config.report.alpha, config.streams.eval) == (1, 0.05, 3)
    assert "speed" not in config.as_dict()["trainer"]
    for model, line in (
        ({"size": 1}, "unexpected.*'size'"),
        ({"context": 0}, r"^model.context \(0\) must be"),
        (3, "by name"),
    ):
        with pytest.raises(UsageError, match=line):
            RunConfig.of({**content, "model": content["model"] | model if isinstance(model, dict) else model})


# What is accepted


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["seed=7"], "streams.init", 7),
        (["seed=7", "streams.init=3"], "streams.init", 3),
        (["model.d_model=${model.context}"], "model.d_model", 128),
        (["optimizer.betas=[0.9,0.95]"], "optimizer.betas", [0.9, 0.95]),
        (["optimizer.grad_clip=null"], "optimizer.grad_clip", None),
        (["optimizer.lr=1"], "optimizer.lr", 1),
        (["model.mlp_ratio=3"], "model.mlp_ratio", 3),
        (["attention.head_dim=16"], "attention.head_dim", 16),
        (["attention=gqa", "attention.n_kv_heads=null"], "attention.n_kv_heads", None),
        (["attention=hybrid", 'attention.pattern="local global"'], "attention.pattern", "local global"),
        (["attention=hybrid", "attention.kinds.local.mask.window=7"], "attention.kinds.local.mask.window", 7),
        (
            ["attention=hybrid", "attention/mask@attention.kinds.local.mask=causal"],
            "attention.kinds.local.mask",
            {"_target_": "attnlab.attention.mask.Causal", "_partial_": True},
        ),
        (["attention/score=[qk_norm,softcap]", "attention.score.softcap.cap=9"], "attention.score.softcap.cap", 9),
        (["attention=mqa", "attention/mask=window", "attention.mask.window=3"], "attention.mask.window", 3),
        (["maps.prompt='Nobody, said she, opens it.'"], "maps.prompt", "Nobody, said she, opens it."),
        (["tokenizer.n_vocab=null"], "tokenizer.n_vocab", None),
        (["trainer.threads=2"], "trainer.threads", 2),
        (["allow_targets=[mine]", "attention._target_=mine.Own"], "attention._target_", "mine.Own"),
    ],
)
def test_what_makes_sense_is_accepted(words: list[str], key: str, value: Any) -> None:
    found = {path: node for path, node, _ in nodes(compose_config(words).as_dict())}
    assert found[key] == value


def test_a_chain_of_scores_replaces_the_usual_one() -> None:
    assert list(compose_config(["attention/score=[qk_norm,softcap]"]).attention["score"]) == ["qk_norm", "softcap"]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of YAML files of a user's own."""
    for name, text in {
        "attention/faded": "defaults: [multi_head, _self_]\n_target_: mine.Faded\nfade: 1\nwindow: auto\nchunk: null\n",
        "experiment/notes": "# @package _global_\ndefaults:\n  - override /attention: gqa\n"
        "notes: {who: me, tags: [1, 2], depth: '???'}\nmodel: {d_model: 64}\n",
        "experiment/typo": "# @package _global_\ntrainer: {max_step: 64}\n",
        "trainer/short": "accelerator: cpu\nmax_steps: 3\n",
    }.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_own_config_folder(mine: Path) -> None:
    """A folder of one's own adds options and keys."""
    config = compose_config(["+experiment=notes", "notes.who=you", "notes.depth=0.5", "seed=3"], [mine])
    assert config.more["notes"] == {"who": "you", "tags": [1, 2], "depth": 0.5}
    assert (config.model.d_model, config.attention["n_kv_heads"], config.seed) == (64, 2, 3)


def test_own_class_settings(mine: Path) -> None:
    """The settings of one's own class are its own affair."""
    words = ["attention=faded", "allow_targets=[mine]"]
    for word in ("attention.fade=0.5", "attention.fade=null", "attention.window=7", "attention.chunk=auto"):
        compose_config([*words, word], [mine])
    assert refused(*words, "attention.fade=much", config_dirs=(mine,)) == (
        "attention.fade (much) must be null or a number"
    )
    assert refused("attention=faded", config_dirs=(mine,)).startswith("attention._target_ (mine.Faded) is not allowed")


def test_own_file(mine: Path) -> None:
    """A file of one's own cannot misspell a key or forget one."""
    assert "did you mean 'trainer.max_steps'?" in refused("+experiment=typo", config_dirs=(mine,))
    assert refused("trainer=short", config_dirs=(mine,)) == (
        "trainer.accumulate is missing: it can be set, but not left out"
    )


# What is refused; the whole stack is tested in test_messages.py


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["attention.out_bias=5"], "attention.out_bias (5) must be true or false"),
        (["data.path=5"], "data.path (5) must be non-empty text"),
        (["+attention.anything=3"], "attention.anything (3) is not an option: MultiHeadAttention has none called"),
        (["allow_targets=x y"], "allow_targets (x y) must be a list of names of packages: allow_targets=[x,y]"),
        (["~model.dropout"], "attention.dropout: "),
        (["+a.b=1"], "a is not a key of the config"),
        (["experiment_name='two words'"], "experiment_name (two words) names a folder"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], line: str) -> None:
    assert refused(*words).startswith(line)


def test_composing_leaves_nothing_behind() -> None:
    refused("seed=-1")
    assert compose_config().seed == 0 and compose_config(["seed=1"]).seed == 1


# The words of a command


def test_experiments_and_sweeps_get_their_plus() -> None:
    assert with_plus(["experiment=a", "+experiment=b", "sweep=c", "-m", "seed=1", "experiment_name=d"]) == [
        "+experiment=a",
        "+experiment=b",
        "+sweep=c",
        "-m",
        "seed=1",
        "experiment_name=d",
    ]


Jobs = list[tuple[str, RunConfig]]


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Jobs]:
    """What `python train.py WORDS` would run: variant and config of every job."""
    found: Jobs = []

    def note(config: RunConfig, variant: str) -> dict[str, Any]:
        found.append((variant, config))
        return {}

    monkeypatch.setattr(attnlab.training.run, "run", note)
    monkeypatch.chdir(tmp_path)

    def run(words: str) -> Jobs:
        monkeypatch.setattr(sys, "argv", ["train.py", *shlex.split(words)])
        runpy.run_path(str(TRAIN), run_name="__main__")
        return found

    return run


@pytest.mark.parametrize(
    ("words", "variant"),
    [
        ("", "multi_head"),
        ("attention=gqa", "gqa"),
        ("attention=gqa.yaml", "gqa"),
        ("attention=gqa attention/mask=window seed=3", "gqa+window"),
        ("attention/score=[qk_norm,softcap] attention/gate=headwise", "multi_head+qk_norm+softcap+headwise"),
        ("""'attention/score=["qk_norm", scaled]'""", "multi_head+qk_norm+scaled"),
        ("attention=hybrid attention/mask@attention.kinds.local.mask=causal", "hybrid+causal"),
        ("attention=sliding_window attention.mask.window=7", "sliding_window"),
    ],
)
def test_a_variant_is_called_by_what_was_chosen(jobs: Callable[[str], Jobs], words: str, variant: str) -> None:
    assert [name for name, _ in jobs(words)] == [variant]


def test_jobs_of_a_sweep(jobs: Callable[[str], Jobs], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every job of a sweep has its own name and config."""
    found: list[Job] = []

    def note(jobs: list[Job], pool: Any, *, begins: bool) -> None:
        found.extend(jobs)
        raise UsageError("enough")

    monkeypatch.setattr(attnlab.sweep.sweeper, "runs_of", note)
    with pytest.raises(SystemExit):
        jobs("-m attention=gqa,linear seed=3,4 model.d_model='${model.context}'")
    names = [(job.variant, job.config.seed) for job in found]
    assert names == [("gqa", 3), ("gqa", 4), ("linear", 3), ("linear", 4)]
    assert found[0].config == compose_config(["attention=gqa", "seed=3", "model.d_model=128", "trainer.threads=1"])
    assert not Path("runs").exists()


def test_home_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """~ stands for the home folder in every key that names a file or folder; an unknown user's is refused."""
    monkeypatch.setenv("HOME", str(tmp_path))
    config = compose_config(["paths.runs='~/r'", "paths.cache='~/c'", "resume_from='~/r/x'"])
    assert (config.paths.runs, config.paths.cache) == (f"{tmp_path}/r", f"{tmp_path}/c")
    assert config.resume_from == f"{tmp_path}/r/x" and config.paths.data == "data"
    assert parsed("maps", ["run=~/r", "prompt=~"])["run"] == tmp_path / "r"
    with pytest.raises(UsageError, match=r"^paths\.runs \(~nobody_here/x\) begins with the home folder of a user who"):
        compose_config(["paths.runs='~nobody_here/x'"])
    with pytest.raises(UsageError, match=r"^data\.path \(~nobody_here/x\) begins with the home folder of a user who"):
        File("~nobody_here/x")


@pytest.mark.parametrize(
    ("typed", "waits"),
    [
        ("-m data=mqar,icl_bigram data.val_rows=128", True),
        ("-m attention=chunked,sliding_window attention.mask.window=16", True),
        ("-m +sweep=design attention.mask.window=16", True),
        ("-m data=mqar data.n_pairs=3", False),  # one option: Hydra knows its keys
        ("-m data=mqar,icl_bigram data.val_rows=64,128", False),
        ("-m data=mqar,icl_bigram trainer.max_steps=", False),
        ("-m data=mqar,icl_bigram paths.cache=c", False),  # of the sweep itself
        ("data=mqar,icl_bigram data.val_rows=128", False),
    ],
)
def test_settings_wait_for_their_job(typed: str, waits: bool) -> None:
    """A setting that an option of a sweep brings along is judged in each job, not in the config of the whole sweep."""
    *words, last = typed.split()
    key, _, value = last.partition("=")
    assert for_each_job([*words, last]) == [*words, f"{key}=choice({value})" if waits else last]


def test_settings_of_swept_options_compose() -> None:
    """What all options of a sweep have can be set; what one of them lacks is refused there, with words to type."""
    words = for_each_job(["-m", "data=mqar,icl_bigram", "data.val_rows=128"])[1:]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("train", overrides=words, run_mode=RunMode.MULTIRUN)
        composer = Composer(loader, master)
        for name in ("mqar", "icl_bigram"):
            assert composer.job([f"data={name}", "data.val_rows=128"]).config.data["val_rows"] == 128
        with pytest.raises(UsageError, match=r"^data.n_pairs is not a key of this config: it comes with data=mqar$"):
            composer.job(["data=icl_bigram", "data.n_pairs=3"])
