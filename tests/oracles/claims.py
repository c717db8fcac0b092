"""Claims once more with the model of their authors, on the rows, in the batches and by the schedule of the recipe.

    python -m tests.oracles.claims

writes docs/ledger/authors/NAME.json, which the page of the ledger shows. It needs the repositories below, each checked
out at its commit in a folder with its name, and the folder above in ATTNLAB_ORACLES.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tests.oracles.case import part_of
from torch import Tensor, nn

from attnlab.build import instantiate
from attnlab.config.compose import compose_config
from attnlab.config.run_config import RunConfig
from attnlab.data.dataset import IGNORED
from attnlab.data.task import Task
from attnlab.sweep.claim import Claim, read_claims
from attnlab.training.optimizer import Recipe

FOLDER = Path(__file__).parents[2] / "docs" / "ledger" / "authors"
ZOOLOGY = "HazyResearch/zoology@d88d6f5474f36998d82d5c3bd58a190248d0a669"
SEEDS = 4  # of those that judge, the first


class Check(NamedTuple):
    """The repository of the authors, and their model for a config and so many tokens: ids to logits."""

    repository: str
    model: Callable[[RunConfig, int], nn.Module]


class Kept(nn.Identity):
    """Stochastic depth at a rate of 0, and a mixer of states that is none."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__()


def split_heads(x: Tensor, pattern: str, **sizes: int) -> Tensor:
    """The two ways in which their layer rearranges: into three, heads and width, and heads back into one."""
    if "three" in pattern.split("->")[0]:
        return x.unflatten(-1, (sizes["three"], -1, sizes["d"]))
    return x.flatten(-2)


def zoology(config: RunConfig, n_vocab: int) -> nn.Module:
    """Blocks of attention without MLP, learned positions, head and embeddings one, no dropout."""
    attention = part_of(ZOOLOGY, "zoology/mixers/attention.py", "SelfAttention", "MHA", rearrange=split_heads)
    more = {"partial": partial, "StochasticDepth": Kept, "ModelConfig": object}
    embeddings = part_of(ZOOLOGY, "zoology/model.py", "TokenEmbeddings").TokenEmbeddings
    names = ("_init_weights", "TransformerBlock", "LMBackbone", "LanguageModel")
    theirs = part_of(ZOOLOGY, "zoology/model.py", *names, **more, TokenEmbeddings=partial(embeddings, device="cpu"))
    sizes = {"d_model": config.model.d_model, "n_layers": config.model.n_layers, "vocab_size": n_vocab}
    of_mixers = {
        "sequence_mixer": SimpleNamespace(instantiate=partial(attention.MHA, num_heads=config.model.n_heads)),
        "state_mixer": SimpleNamespace(instantiate=Kept),
    }
    others: dict[str, object] = {
        "resid_dropout": 0.0,
        "embed_dropout": 0.0,
        "drop_path": 0.0,
        "layer_norm_epsilon": 1e-5,
    }
    others |= {"pad_vocab_size_multiple": 1, "learnable_word_embeddings": True, "embedding_init_type": "default"}
    others |= {"block_type": "TransformerBlock", "max_position_embeddings": config.model.context}
    model: nn.Module = theirs.LanguageModel(SimpleNamespace(**sizes, **of_mixers, **others))
    model.forward = partial(model.forward, return_embeddings=False)
    return model


CHECKS = {"recall_layers": Check(ZOOLOGY, zoology)}


def accuracy(config: RunConfig, check: Check) -> float:
    """What their model comes to on the validation rows."""
    task, recipe = instantiate(config, "data", Task), instantiate(config, "optimizer", Recipe)
    torch.manual_seed(config.seed)
    model, context, steps = check.model(config, task.n_vocab), config.model.context, config.trainer.max_steps
    optimizer = recipe.optimizer(model)
    for step in range(steps):
        batch = task.train_batch(seed=config.streams.data, step=step, batch_size=config.batch_size, context=context)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * recipe.factor(step, steps)
        loss = F.cross_entropy(model(batch.ids).flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        if recipe.grad_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
        optimizer.step()
    rows = task.validation(context, config.streams.eval)
    with torch.no_grad():
        right = model(torch.from_numpy(rows.inputs)).argmax(dim=-1).numpy() == rows.targets
    return float(right[rows.asked].mean())


def record(claim: Claim, check: Check) -> None:
    """Train every arm with the first seeds, and write down what came of it."""
    arms = {}
    for arm in claim.arms:
        configs = {seed: compose_config([*claim.settings(arm), f"seed={seed}"]) for seed in claim.seeds[:SEEDS]}
        arms[arm] = {str(seed): accuracy(config, check) for seed, config in configs.items()}
        print(claim.name, arm, arms[arm], flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    content = {"repository": check.repository, "hash": claim.hash, "accuracy": arms}
    (FOLDER / f"{claim.name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in read_claims([*CHECKS]):
        record(each, CHECKS[each.name])
