"""What a report says was compared: every setting that differs, what was declared, and what can be compared at all."""

from pathlib import Path

from tests.ablation.folders import write_arm

from attnlab.ablation.report import Options, Report, analyse, write
from attnlab.ablation.sections import document
from attnlab.ablation.terminal import beside_the_table

BASE = [2.0, 2.1, 1.9]
WORSE = [2.3, 2.41, 2.19]


def page(report: Report, folder: Path) -> str:
    """The report as it is read."""
    write(report, document(report), folder / "report", board=False)
    return (folder / "report" / "report.md").read_text().replace("\\_", "_")


def two_sweeps(folder: Path, **settings: object) -> None:
    """A sweep, and a second one in the same experiment with other settings."""
    first = {"model.dropout": 0.0, "optimizer.weight_decay": 0.1}
    for name, finals in (("multi_head", BASE), ("linear", WORSE)):
        write_arm(folder, name, finals, settings=first)
        write_arm(folder, name, finals, settings={**first, **settings})


def test_hidden_settings_are_named(tmp_path: Path) -> None:
    """Of settings that change together, each is named, in the terminal and on the page."""
    two_sweeps(tmp_path, **{"model.dropout": 0.2, "optimizer.weight_decay": 0.0, "batch_size": 4})
    report = analyse(tmp_path)
    text = page(report, tmp_path)
    assert "Not varied: data, tokenizer, trainer." in text
    assert "Besides the variants, batch_size with model.dropout with optimizer.weight_decay differed." in text
    assert "batch_size changes together with model.dropout, optimizer.weight_decay" in beside_the_table(report)
    table = text.partition("## Settings that differ")[2].partition("## ")[0]
    rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines() if line.startswith("| ")}
    for key, value in (("batch_size", "4"), ("model.dropout", "0.2"), ("optimizer.weight_decay", "0")):
        assert f": {value}" in rows[key] and len(rows[key].split(" | ")) == 3
    assert (tmp_path / "report" / "settings.csv").read_text().count("optimizer.weight_decay") == 1


def test_settings_of_one_side(tmp_path: Path) -> None:
    """What differs between a variant and its baseline, though no name says so, is a remark beside its verdict."""
    write_arm(tmp_path, "multi_head", BASE, settings={"model.dropout": 0, "optimizer.weight_decay": 0.1})
    write_arm(tmp_path, "linear", WORSE, settings={"model.dropout": 0.2, "optimizer.weight_decay": 0.1})
    (found,) = analyse(tmp_path).comparisons
    assert "differs from the baseline in model.dropout (0.2, not 0), too" in found.remarks


def test_equal_settings_in_two_spellings(tmp_path: Path) -> None:
    """0 and 0.0 are one value, so nothing is said to differ."""
    write_arm(tmp_path, "multi_head", BASE, settings={"model.dropout": 0})
    write_arm(tmp_path, "linear", WORSE, settings={"model.dropout": 0.0})
    report = analyse(tmp_path)
    assert "Besides the variants" not in page(report, tmp_path)
    assert not any("differs" in remark for c in report.comparisons for remark in c.remarks)


def test_fixed_stream_is_a_setting(tmp_path: Path) -> None:
    """A stream that does not follow the seed is named like any other setting."""
    write_arm(tmp_path, "multi_head", BASE)
    for run in write_arm(tmp_path, "linear", WORSE):
        config = run / "config.yaml"
        seed = run.name.removeprefix("seed_")
        config.write_text(config.read_text().replace(f"init: {seed}", "init: 70"))
    (found,) = analyse(tmp_path).comparisons
    assert any("streams.init (70, not null)" in remark for remark in found.remarks)


def test_factors_that_change_together(tmp_path: Path) -> None:
    """An effect is that of all settings that change with its factor, and says so."""
    for dropout in (0.0, 0.2):
        for depth in (2, 4):
            settings = {"model.dropout": dropout, "optimizer.weight_decay": 0.1 - dropout / 2, "model.n_layers": depth}
            write_arm(tmp_path, "multi_head", [x + dropout + depth for x in BASE], settings=settings)
    label = "multi_head model.n_layers=2 model.dropout=0"
    effects = analyse(tmp_path, Options(baseline=label)).effects
    assert effects is not None and effects.together == {"model.dropout": ["optimizer.weight_decay"]}
