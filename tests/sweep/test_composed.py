"""Jobs that differ in values alone are composed once, and each is what the same words make of it by themselves."""

from collections.abc import Iterator
from unittest import mock

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from attnlab.config.compose import compose_config, config_dir, guarded
from attnlab.errors import UsageError
from attnlab.sweep.jobs import ONE_THREAD, Composer

WORDS = (
    ["optimizer.lr=0.1", "attention=gqa", "model.d_model=64", "batch_size=3"],
    ["optimizer.lr=0.2", "attention=gqa", "model.d_model=64", "batch_size=3"],
    ["optimizer=muon", "optimizer.lr=0.3", "optimizer.betas=[0.5,0.6]", "seed=3"],
    ["attention=sliding_window", "attention.mask.window=9", "trainer.max_steps=7", "streams.init=5"],
    ["attention/normalizer=sink", "+experiment=shakespeare_char", "optimizer.lr=0.1"],
    ["maps.probe='a: b, {c}'", "trainer.max_steps=9", "trainer.max_steps=10"],
    ["model.d_model=${model.context}", "model.context=32", "model.n_heads=2"],
)


@pytest.fixture
def composer() -> Iterator[Composer]:
    with guarded(), initialize_config_dir(str(config_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        yield Composer(loader, loader.load_configuration("train", overrides=[], run_mode=RunMode.MULTIRUN))


def test_values(composer: Composer) -> None:
    """The configs of a sweep are those of single runs."""
    jobs = [composer.job(words) for words in WORDS]
    GlobalHydra.instance().clear()
    for words, job in zip(WORDS, jobs, strict=True):
        assert job.config == compose_config([*words, ONE_THREAD])
        assert job.overrides == (*words, ONE_THREAD)


def test_composed_once(composer: Composer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six learning rates of one variant are one composition."""
    loads = mock.Mock(side_effect=composer.loader.load_sweep_config)
    monkeypatch.setattr(composer.loader, "load_sweep_config", loads)
    for i in range(6):
        composer.job(["attention=gqa", f"optimizer.lr={0.001 * (i + 1)}", f"seed={i % 3}"])
    assert loads.call_count == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["optimizer.rate=1"], r"^optimizer\.rate is not a key of the config"),
        (["optimizer.lr=1,2"], r"optimizer\.lr"),
        (["optimizer.lr=fast"], r"^optimizer\.lr \(fast\) must be"),
        (["attention.mask.window=3"], r"^attention\.mask\.window is not a key of this config: it comes with"),
    ],
)
def test_wrong_values(composer: Composer, words: list[str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        composer.job(["attention=multi_head", *words])
