"""The pages of a report: whole in themselves, and telling all that has to be told."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tests.analysis.folders import write_arm, write_run

from attnlab.analysis.analyse import analyse
from attnlab.analysis.report.content import document
from attnlab.analysis.report.publish import write
from attnlab.analysis.settings import Options
from attnlab.cli import main
from attnlab.errors import UsageError
from attnlab.store import preregistration
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.preregistration import Preregistration

BASE = [2.0, 2.1, 1.9, 2.05, 1.95, 2.02]
PREREGISTRATION = Preregistration(
    "linear is worse", "multi_head", "val/loss", 0.05, 0.05, [0, 1, 2, 3, 4, 5], ["linear"]
)


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    folder = tmp_path / "my_experiment"
    write_arm(folder, "multi_head", BASE)
    write_arm(folder, "linear", [x + 0.2 + 0.01 * (-1) ** i for i, x in enumerate(BASE)])
    write_run(folder, "third", 6, 9.0, status="diverged")
    (write_run(folder, "<b>&_x*", 0, 2.0) / "metrics.csv").write_text("no")
    return folder


def test_page_escapes_markup(experiment: Path) -> None:
    """The page is whole in itself and nothing in it is taken for markup."""
    report = analyse(experiment)
    write(report, document(report), experiment / "report")
    page = (experiment / "report" / "report.html").read_text()
    assert not re.findall(r"src=|<link[^>]*href=\"(?!data:)|href=\"\w+:(?!,)|@import|url\(|<script[^>]", page)
    assert page.count("<script") == 1  # its own, in it
    assert "<b>" not in page and "&lt;b&gt;&amp;_x*" in page
    assert "prefers-color-scheme: dark" in page
    for drawing in re.findall(r"<svg.*?</svg>", page, flags=re.S):
        ElementTree.fromstring(drawing)
    for file in (experiment / "report" / "pictures").iterdir():
        ElementTree.parse(file)


def test_all_that_a_reader_needs_is_told(experiment: Path) -> None:
    report = analyse(experiment, Options(margin=0.05))
    write(report, document(report), experiment / "report")
    for name in ("report.md", "report.html"):
        text = (experiment / "report" / name).read_text().replace("\\_", "_")
        for words in (
            *("noise floor", "Holm", "worse", "sign flips", "0.0022", "correlation of paired runs", "Learning curves"),
            *("14 runs: 12 finished, 1 diverged, 1 damaged", "metrics.csv does not begin with", "no manifest.json"),
            *("Limits", "share one learning rate (0.002)", "python train.py attention=linear seed=3", "peak memory"),
            *(
                "abc",
                "d" * 64,
                next(c.arm.folder for c in report.comparisons if c.n),
                "forward FLOPs",
                "attnlab report",
            ),
        ):
            assert words in text, f"{words} is not in {name}"


def test_a_second_report_takes_the_place_of_the_first(experiment: Path) -> None:
    for _ in range(2):
        report = analyse(experiment)
        write(report, document(report), experiment / "report")
    assert len(analyse(experiment).experiment.runs) == 14  # the report's own folders are no runs


def test_the_board_shows_mean_and_band(experiment: Path) -> None:
    logs = experiment.parent.with_name(f"{experiment.parent.name}_logs")
    main(["report", f"experiment={experiment}", f"tensorboard={logs}"])
    ends = {}
    for line in ("mean", "low", "high"):
        (file,) = (logs / "multi_head" / line).iterdir()
        events = [e for e in EventFileLoader(str(file)).Load() if e.summary.value]
        assert [e.step for e in events] == [0, 20, 40]
        value = events[-1].summary.value[0]
        ends[line] = value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value
    assert ends["mean"] == pytest.approx(np.mean(BASE))
    assert ends["low"] < ends["mean"] < ends["high"]


@pytest.mark.parametrize("folder", ["true", "{}/report/logs", "{}"])
def test_means_are_no_runs(experiment: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A log of means stands where `tensorboard --logdir runs` does not look, and an older one is taken away."""
    older = experiment / "report" / "tensorboard" / "multi_head" / "mean"
    older.mkdir(parents=True)
    with pytest.raises(SystemExit) as end:
        main(["report", f"experiment={experiment}", f"tensorboard={folder.format(experiment)}"])
    assert end.value.code == 2 and re.search(r"tensorboard \(.*\) must", capsys.readouterr().err) and older.exists()
    main(["report", f"experiment={experiment}"])
    assert not older.exists() and not list((experiment / "report").rglob("*tfevents*"))


def test_command_shows_verdict(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command shows the verdict and says where the pages are."""
    main(["report", f"experiment={experiment}", "margin=0.05", f"out={experiment.parent / 'pages'}"])
    out = capsys.readouterr().out
    assert re.search(r"linear +\| 6 \|.*\| worse", out)
    assert "diverged: third-" in out and "damaged: <b>&_x*" in out
    assert sorted(p.name for p in (experiment.parent / "pages").iterdir()) == [
        *("pictures", "report.html", "report.md", "runs.csv", "settings.csv", "verdicts.csv", "verdicts.tex")
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment=nowhere"], "experiment (nowhere) must be a folder of runs"),
        (["experiment=.", "alpha=0.7"], "alpha (0.7) must be"),
        (["experiment=.", "margin=-1"], "margin (-1.0) must be"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["report", *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_report_without_finished_run(tmp_path: Path) -> None:
    """An experiment without one finished run still has a report."""
    for name in ("multi_head", "linear"):
        write_run(tmp_path, name, 0, 2.0, status="diverged")
    report = analyse(tmp_path)
    write(report, document(report), tmp_path / "report")
    assert report.comparisons[0].verdict == "cannot tell"
    assert "2 runs: 2 diverged." in (tmp_path / "report" / "report.md").read_text()


def test_different_conditions_are_pointed_out(tmp_path: Path) -> None:
    write_arm(tmp_path, "multi_head", BASE)
    write_arm(tmp_path, "linear", BASE, summary={"threads": 2, "git_commit": "def"})
    text = (lambda r: str(document(r)))(analyse(tmp_path))
    assert "not the same for all compared runs: threads (1, 2)" in text
    assert "not the same for all compared runs: commit (abc, def)" in text


def test_nothing_of_torch_is_needed_to_read_a_report() -> None:
    code = (
        "import sys, attnlab.analysis.analyse, attnlab.analysis.report.content, attnlab.analysis.report.report_text; "
        "sys.exit(', '.join({'torch', 'lightning', 'statsmodels'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_preregistration_without_deviations(tmp_path: Path) -> None:
    digest = preregistration.write(tmp_path, PREREGISTRATION)
    assert preregistration.write(tmp_path, PREREGISTRATION) == digest  # the same again changes nothing
    late = {"started": "2999-01-01T00:00:00+00:00"}
    write_arm(tmp_path, "multi_head", BASE, summary=late)
    write_arm(tmp_path, "linear", [x + 0.2 for x in BASE], summary=late)
    report = analyse(tmp_path)
    assert report.preregistration is not None and report.preregistration.deviations == []
    assert (report.rules.margin, report.rules.family) == (0.05, ("linear",))  # it goes by what was preregistered
    assert f"SHA-256 {digest}" in str(document(report)) and "No deviations." in str(document(report))


def test_deviations_are_named(tmp_path: Path) -> None:
    preregistration.write(tmp_path, PREREGISTRATION)
    write_arm(tmp_path, "multi_head", BASE)  # started years before the preregistration
    write_arm(tmp_path, "linear", [x + 0.2 for x in BASE[:5]])
    write_arm(tmp_path, "third", BASE)
    path = ExperimentFolder(tmp_path).preregistration
    path.write_text(path.read_text().replace("linear is worse", "linear is better"))
    deviations = "; ".join(
        (analyse(tmp_path, Options(margin=0.2)).preregistration or pytest.fail("no preregistration")).deviations
    )
    for words in (
        *("its hash is wrong", "margin was preregistered as 0.05, and is 0.2", "not preregistered, but run: third"),
        "runs had started before it was written",
    ):
        assert words in deviations


def test_preregistration_is_fixed(tmp_path: Path) -> None:
    """Preregistration comes first and is not changed."""
    preregistration.write(tmp_path / "a", PREREGISTRATION)
    with pytest.raises(UsageError, match=r"holds something else \(margin: 0.05, not 0.1\)"):
        preregistration.write(tmp_path / "a", PREREGISTRATION._replace(margin=0.1))
    write_run(tmp_path / "b", "multi_head", 0, 2.0)
    with pytest.raises(UsageError, match="preregister must be set before the first run"):
        preregistration.write(tmp_path / "b", PREREGISTRATION)
    ExperimentFolder(tmp_path / "b").preregistration.write_text(json.dumps({"sha256": 1}))
    with pytest.raises(UsageError, match="is not a preregistration"):
        analyse(tmp_path / "b")


@pytest.mark.parametrize("name", ["report", "report/pictures"])
def test_link_out_of_the_experiment(experiment: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no folder is typed, a report writes nothing outside its experiment; where one is, that is where it goes."""
    elsewhere = experiment.parent / "elsewhere"
    elsewhere.mkdir()
    (experiment / name).parent.mkdir(exist_ok=True)
    (experiment / name).symlink_to(elsewhere)
    with pytest.raises(SystemExit) as end:
        main(["report", f"experiment={experiment}"])
    assert end.value.code == 2 and "is a link that leads out of the experiment; out=FOLDER" in capsys.readouterr().err
    assert not any(elsewhere.iterdir())
    main(["report", f"experiment={experiment}", f"out={elsewhere}"])
    assert (elsewhere / "report.md").is_file()
