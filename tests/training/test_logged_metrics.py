"""What a run logs is what was said beforehand; a metric that never comes is refused before training."""

from pathlib import Path

import pytest
from tests.training.launch import folder_of, tiny

from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.config.metric_kinds import kind_of
from attnlab.data.stored_tokenizers import load_tokenizer
from attnlab.errors import UsageError
from attnlab.runs import dataset_of, read_config
from attnlab.store.run_folder import RunFolder
from attnlab.training.logged_metrics import logged_metrics
from attnlab.training.run import run

TASK = ("data=parity", "data.val_rows=40", "tokenizer=task", "model.context=20", "trainer.max_steps=2", "maps.steps=2")


def train(folder: Path, *settings: str) -> None:
    """Two steps of a task."""
    ours = [text for text in tiny(folder, *TASK, *settings) if not text.startswith("data.path")]
    run(compose_config(ours), variant="sigmoid")


@pytest.mark.slow
def test_logged(tmp_path: Path) -> None:
    """Every name that is judged of a finished run was known, and the other way round."""
    train(tmp_path, "evaluation.lengths=[2]", "attention=sigmoid")
    folder = RunFolder(folder_of(tmp_path, "sigmoid"))
    config = read_config(folder)
    logged = {row.metric for row in folder.read_metrics()}
    expected = set(
        logged_metrics(config, build_model(config, 4), dataset_of(folder, config, load_tokenizer(folder.tokenizer)))
    )
    assert logged - expected == {"attention_entropy/uniform_causal", "optim/lr", "optim/grad_norm"}
    assert expected <= logged
    assert all(kind_of(name) for name in expected), "each says which way is better, or that neither is"
    assert {"val_segment_loss/4", "attention_answer_mass/L00H00", "attention_row_sum/=/L00H00"} <= logged


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("val/acuracy:area", "not logged; did you mean 'val/accuracy'"),
        ("val_accuracy/bits_64", "logged: val/loss, .*val_accuracy/bits_4..bits_16"),
        ("val_count/bits_4", "does not say which way is better"),
    ],
)
def test_typo(tmp_path: Path, metric: str, message: str) -> None:
    """Refused in one line that names what exists, and nothing is written."""
    with pytest.raises(UsageError, match=rf"^report\.metric \({metric}\).*{message}") as error:
        train(tmp_path, f"report.metric={metric}")
    assert "\n" not in str(error.value) and not list(tmp_path.rglob("seed_*"))
