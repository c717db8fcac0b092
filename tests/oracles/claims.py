"""Claims once more with the model of their authors, on the rows, in the batches and by the schedule of the recipe.

    python -m tests.oracles.claims [NAME ...]

writes docs/ledger/authors/NAME.json, which the page of the ledger shows. It needs the repositories below, each checked
out at its commit in a folder with its name, and the folder above in ATTNLAB_ORACLES.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Union

import torch
import torch.nn.functional as F
from tests.oracles.case import part_of
from torch import Tensor, nn

from attnlab.attention.evaluating import evaluating
from attnlab.build import build_model, instantiate
from attnlab.config.compose import compose_config
from attnlab.config.run_config import RunConfig
from attnlab.data.dataset import IGNORED
from attnlab.data.task import Task
from attnlab.sweep.claim import Claim, read_claims
from attnlab.training.extrapolation import as_scalars, extrapolate
from attnlab.training.optimizer import Recipe

FOLDER = Path(__file__).parents[2] / "docs" / "ledger" / "authors"
ZOOLOGY = "HazyResearch/zoology@d88d6f5474f36998d82d5c3bd58a190248d0a669"
TRACKING = "automl/unlocking_state_tracking@df8f84071e2d81783c73dbfc44a96e60f495c694"
FLA = "flash-linear-attention_mod/fla"  # their copy of flash-linear-attention, in which they work
SEEDS = 2  # of those that judge, the first; the record of recall_layers has four


class Check(NamedTuple):
    """The repository of the authors, what of the model is theirs, and it by arm, for a config and so many tokens."""

    repository: str
    theirs: str
    arms: Mapping[str, Callable[[RunConfig, int], nn.Module]]


class Kept(nn.Identity):
    """Stochastic depth at a rate of 0, and a mixer of states that is none."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__()


class Alone(nn.Module):
    """A layer of theirs where a layer of ours stands; of what it gives, the output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, shared: object = None) -> Tensor:
        given = self.layer(x)
        y: Tensor = given if isinstance(given, Tensor) else given[0]
        return y


def rearrange(x: Tensor, pattern: str, **sizes: int) -> Tensor:
    """The patterns that the code here asks for."""
    ways: dict[str, Callable[[], Tensor]] = {
        "... (three h d) -> ... three h d": lambda: x.unflatten(-1, (sizes["three"], -1, sizes["d"])),
        "... h d -> ... (h d)": lambda: x.flatten(-2),
        "b l h d -> b l (h d)": lambda: x.flatten(-2),
        "b h l d -> b l h d": lambda: x.transpose(1, 2),
        "b h l d -> b l (h d)": lambda: x.transpose(1, 2).flatten(-2),
        "b l (h d) -> b h l d": lambda: x.unflatten(-1, (sizes["h"], -1)).transpose(1, 2),
        "b l h -> b h l": lambda: x.mT,
        "b l d -> b d l": lambda: x.mT,
        "b d l -> b l d": lambda: x.mT,
        "b h (n c) d -> b h n c d": lambda: x.unflatten(2, (-1, sizes["c"])),
        "b h n c d -> b h (n c) d": lambda: x.flatten(2, 3),
    }
    return ways[pattern]()


def softmax(d_model: int, n_heads: int, layer: int) -> nn.Module:
    """Zoology's softmax attention."""
    theirs = part_of(ZOOLOGY, "zoology/mixers/attention.py", "SelfAttention", "MHA", rearrange=rearrange)
    layer_of_theirs: nn.Module = theirs.MHA(d_model, num_heads=n_heads)
    return layer_of_theirs


def convolution(d_model: int, n_heads: int, layer: int) -> nn.Module:
    """Zoology's gated convolution over three tokens, which in its experiments stands below the layer that is tried."""
    short = part_of(ZOOLOGY, "zoology/mixers/convolution.py", "ShortConvolution").ShortConvolution
    more = {"ShortConvolution": short, "validate_call": lambda f: f, "Union": Union, "List": list}
    base: nn.Module = part_of(ZOOLOGY, "zoology/mixers/base_conv.py", "BaseConv", **more).BaseConv(d_model, l_max=0)
    return base


def linear(d_model: int, n_heads: int, layer: int, *, features: str, width: int) -> nn.Module:
    """Zoology's linear attention, with features of a Taylor series or elu + 1, of queries and keys of this width."""
    base = part_of(ZOOLOGY, "zoology/mixers/feature_maps/base.py", "FeatureMap", "PosELU")
    taylor = part_of(ZOOLOGY, "zoology/mixers/feature_maps/taylor.py", "TaylorExp", FeatureMap=base.FeatureMap)
    kinds = {"pos_elu": base.PosELU, "taylor_exp": taylor.TaylorExp}
    theirs = part_of(
        ZOOLOGY,
        "zoology/mixers/based.py",
        "Based",
        rearrange=rearrange,
        validate_call=lambda f: f,
        init_feature_map=lambda feature_map, **options: kinds[feature_map](**options),
    )
    sizes = {"feature_dim": width, "num_heads": n_heads, "num_key_value_heads": n_heads}
    layer_of_theirs: nn.Module = theirs.Based(d_model, **sizes, feature_name=features, train_view="quadratic")
    return layer_of_theirs


def delta(d_model: int, n_heads: int, layer: int, *, beta_max: float = 1.0) -> nn.Module:
    """The layer of DeltaNet as its authors have it, in a copy of which write strengths may reach 2."""
    conv = part_of(
        TRACKING,
        f"{FLA}/modules/convolution.py",
        "ShortConvolution",
        rearrange=rearrange,
        causal_conv1d_fn=None,
        ACT2FN={"silu": F.silu},
        warnings=SimpleNamespace(warn=lambda *_: None),
    )
    rule = part_of(TRACKING, f"{FLA}/ops/delta_rule/naive_compatible.py", "delta_rule_chunkwise", rearrange=rearrange)
    theirs = part_of(
        TRACKING,
        f"{FLA}/layers/delta_net_no_triton.py",
        "DeltaNetNoTriton",
        rearrange=rearrange,
        RMSNorm=nn.RMSNorm,
        ShortConvolution=partial(conv.ShortConvolution, use_fast_conv1d=False),
        delta_rule_chunkwise=rule.delta_rule_chunkwise,
        DeltaNetNoTriton=object,
        Cache=object,
    )
    sizes = {"hidden_size": d_model, "num_heads": n_heads, "layer_idx": layer, "chunk_size": 32}
    layer_of_theirs: nn.Module = theirs.DeltaNetNoTriton(**sizes, mode="naive_chunk", sigmoid_scale=beta_max)
    return layer_of_theirs


def zoology(config: RunConfig, n_vocab: int, *, mixer: Callable[..., nn.Module]) -> nn.Module:
    """Blocks of this mixer without MLP, learned positions, head and embeddings one, no dropout."""
    more = {"partial": partial, "StochasticDepth": Kept, "ModelConfig": object}
    embeddings = part_of(ZOOLOGY, "zoology/model.py", "TokenEmbeddings").TokenEmbeddings
    names = ("_init_weights", "TransformerBlock", "LMBackbone", "LanguageModel")
    theirs = part_of(ZOOLOGY, "zoology/model.py", *names, **more, TokenEmbeddings=partial(embeddings, device="cpu"))
    sizes = {"d_model": config.model.d_model, "n_layers": config.model.n_layers, "vocab_size": n_vocab}

    def mixer_of(d_model: int, layer_idx: int) -> nn.Module:
        return mixer(d_model, config.model.n_heads, layer_idx)

    of_mixers = {"sequence_mixer": SimpleNamespace(instantiate=mixer_of)}
    of_mixers |= {"state_mixer": SimpleNamespace(instantiate=Kept)}
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


def ours(config: RunConfig, n_vocab: int, *, mixers: Sequence[Callable[..., nn.Module]]) -> nn.Module:
    """Our model with layers of theirs, in turn, where ours stand."""
    model = build_model(config, n_vocab)
    for layer, block in enumerate(model.layers):
        mixer = mixers[layer % len(mixers)](config.model.d_model, config.model.n_heads, layer)
        block.attention = Alone(mixer)  # type: ignore[assignment]
    return model


def above_convolution(mixer: Callable[..., nn.Module]) -> Callable[[RunConfig, int], nn.Module]:
    return partial(ours, mixers=(convolution, mixer))


PAIR = "their layers in our model, a gated convolution over three tokens below the layer that is tried, as they have it"
CHECKS = {
    "recall_layers": Check(
        ZOOLOGY, "their model", dict.fromkeys(("two_layers", "one_layer"), partial(zoology, mixer=softmax))
    ),
    "linear_recall": Check(
        ZOOLOGY,
        PAIR,
        {
            "softmax_16": above_convolution(softmax),
            "linear_16": above_convolution(partial(linear, features="pos_elu", width=32)),
            "linear_4": above_convolution(partial(linear, features="pos_elu", width=32)),
        },
    ),
    "taylor_recall": Check(
        ZOOLOGY,
        f"{PAIR}; as many features for elu + 1 as the Taylor series has monomials, 45",
        {
            "taylor": above_convolution(partial(linear, features="taylor_exp", width=8)),
            "elu": above_convolution(partial(linear, features="pos_elu", width=45)),
        },
    ),
    "delta_recall": Check(
        f"{ZOOLOGY}, {TRACKING}",
        "their layers in our model, linear attention above a gated convolution over three tokens; DeltaNet, of the "
        "other repository, has convolutions of its own and stands twice",
        {
            "delta": partial(ours, mixers=(delta,)),
            "linear": above_convolution(partial(linear, features="pos_elu", width=32)),
        },
    ),
    "parity_eigenvalues": Check(
        TRACKING,
        "their layer in our model",
        {f"up_to_{beta:g}": partial(ours, mixers=(partial(delta, beta_max=beta),)) for beta in (2.0, 1.0)},
    ),
}


def trained(config: RunConfig, task: Task, build: Callable[[RunConfig, int], nn.Module]) -> nn.Module:
    """Their model after the steps of the recipe."""
    recipe = instantiate(config, "optimizer", Recipe)
    torch.manual_seed(config.seed)
    model, context, steps = build(config, task.n_vocab), config.model.context, config.trainer.max_steps
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
    return model


def measures(claim: Claim, config: RunConfig, build: Callable[[RunConfig, int], nn.Module]) -> dict[str, float]:
    """The measures of the claim, of their model on the validation rows."""
    task, context, seed = instantiate(config, "data", Task), config.model.context, config.streams.eval
    model: Any = trained(config, task, build)
    rows = task.validation(context, seed)
    with evaluating(model), torch.no_grad():
        right = model(torch.from_numpy(rows.inputs)).argmax(dim=-1).numpy() == rows.targets
        longer = as_scalars([*extrapolate(model, task, context, config.evaluation.lengths, seed=seed)])
    numbers = {"val/accuracy": float(right[rows.asked].mean()), **longer}
    for i, name in enumerate(task.slice_names):
        asked = rows.asked & (rows.slices == i)
        numbers |= {f"val_accuracy/{name}": float(right[asked].mean())} if asked.any() else {}
    return {name: measure.value(numbers) for name, measure in claim.measures.items()}


def record(claim: Claim, check: Check) -> None:
    """Train every arm with the first seeds, and write down what came of it."""
    arms = {}
    for arm, build in check.arms.items():
        configs = {seed: compose_config([*claim.settings(arm), f"seed={seed}"]) for seed in claim.seeds[:SEEDS]}
        arms[arm] = {str(seed): measures(claim, config, build) for seed, config in configs.items()}
        print(claim.name, arm, arms[arm], flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    content = {"repository": check.repository, "theirs": check.theirs, "hash": claim.hash, "arms": arms}
    (FOLDER / f"{claim.name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in read_claims(sys.argv[1:] or [*CHECKS]):
        record(each, CHECKS[each.name])
