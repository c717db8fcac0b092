"""The validation rows of a run as a task of lm-eval, which scores by log-likelihood what the run was judged by."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from torch import Tensor

from attnlab.config.run_config import RunConfig, class_name
from attnlab.data.dataset import IGNORED
from attnlab.data.tokenizers import TaskTokenizer, Tokenizer
from attnlab.errors import UsageError

TASK, ROWS = "task.yaml", "rows.jsonl"


def lm_eval_files(
    config: RunConfig, tokenizer: Tokenizer, batches: Sequence[tuple[Tensor, Tensor]], folder: Path
) -> dict[str, bytes]:
    """A task and its rows, which lie in `folder`. Raises UsageError where there is nothing to ask for.

    Of a synthetic task each answer is asked for, of a text the last whole word of each row, as LAMBADA does (arXiv
    1606.06031).
    """
    rows = list(_answers(batches, tokenizer) if isinstance(tokenizer, TaskTokenizer) else _words(batches, tokenizer))
    if not rows:
        raise UsageError("to (lm_eval) finds nothing to ask for: the rows of this run are shorter than two words")
    name = f"attnlab_{class_name(config.data).lower()}"
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": str(folder.absolute() / ROWS)},
        "test_split": "train",
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{' ' + answer}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
        "metadata": {"version": 1.0},
    }
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return {TASK: yaml.safe_dump(task, sort_keys=False).encode(), ROWS: lines.encode()}


def prefix_id(tokenizer: Tokenizer) -> int:
    """The id that lm-eval takes for the start of a text (`prefix_token_id`): the tokenizer's own, else that of a line
    break, else 0."""
    try:
        return (tokenizer.bos or tokenizer.eos or tokenizer.encode("\n") or [0])[0]
    except UsageError:  # characters that have no line break
        return 0


def _answers(batches: Sequence[tuple[Tensor, Tensor]], tokenizer: Tokenizer) -> Iterator[dict[str, str]]:
    for inputs, targets in batches:
        for row, row_targets in zip(inputs.tolist(), targets.tolist(), strict=True):
            for i, target in enumerate(row_targets):
                if target != IGNORED:
                    yield {
                        "context": tokenizer.decode(row[: i + 1]).strip(),
                        "answer": tokenizer.decode([target]).strip(),
                    }


def _words(batches: Sequence[tuple[Tensor, Tensor]], tokenizer: Tokenizer) -> Iterator[dict[str, str]]:
    for inputs, _ in batches:
        for row in inputs.tolist():
            text = " ".join(tokenizer.decode(row).strip("\N{REPLACEMENT CHARACTER}").split(" ")[:-1])  # whole words
            context, _, answer = text.rpartition(" ")
            if context.strip() and answer.strip():
                yield {"context": context, "answer": answer}
