"""What a law is, whom it judges, and the small sizes and seeded numbers it judges with."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnlab.attention.base import Attention, AttentionFactory
from attnlab.attention.embedding import Embedding, NoEmbedding
from attnlab.attention.tokens import tell_vocabulary
from attnlab.build import attention_factory, embedding_factory
from attnlab.config.compose import compose_config, config_dir
from attnlab.config.messages import ComposedVariant
from attnlab.config.run_config import RunConfig
from attnlab.errors import AttnlabError
from attnlab.model import GPT, ModelConfig, generator_for

# Small and all different, so that no two axes can be swapped unnoticed. 24 makes 4 heads of 6, whose width is even.
D_MODEL, BATCH, VOCAB, CONTEXT = 24, 3, 29, 157
SHORT = (1, 2, 3, 7)  # tried first, so that what is reported is the smallest failing case
LONG = 67  # longer than the chunk of 64 that the recurrent family trains with, and prime
UNTOUCHED = 1e-12  # fp64: the same sums over the same numbers, which a kernel may order in another way
SAME = 1e-10  # fp64: the same function by another route; rounding of 67 tokens' sums and small triangular solves


class LawBroken(AttnlabError):
    """A variant breaks a law: one line with the smallest failing case found and the number measured."""


@dataclass(frozen=True)
class Skipped:
    """The law has nothing to say about this variant, and why."""

    reason: str


@dataclass(frozen=True)
class Subject:
    """A variant before the law: how its layers are made, and how they would be made with other settings.

    `factory` is called as factory(d_model, layer=, n_layers=, context=). `rebuild` takes overrides such as
    "position=alibi" and gives the same variant under them; it may raise UsageError.
    """

    name: str
    factory: AttentionFactory
    config: RunConfig
    rebuild: Callable[[Sequence[str]], "Subject"] = field(repr=False)
    embed: Callable[..., Embedding] = NoEmbedding
    yaml: Path | None = None
    position_names: tuple[str, ...] = ()

    @property
    def depth(self) -> int:
        """How many layers the variant is looked at in: those of its config."""
        return self.config.model.n_layers

    def layer(self, index: int) -> Attention:
        """One layer as its factory makes it, from its own random numbers; the caller's are left alone."""
        with seeded(index):
            layer = self.factory(D_MODEL, layer=index, n_layers=self.depth, context=CONTEXT)
            tell_vocabulary(layer, VOCAB)
        return layer

    def gpt(self, n_layers: int, *, vocab_size: int = VOCAB, seed: int = 0, **settings: Any) -> GPT:
        """A whole model with this variant, as small as the laws need it."""
        sizes = ModelConfig(**{"n_layers": n_layers, "d_model": D_MODEL, "context": CONTEXT, **settings})
        return GPT(sizes, vocab_size=vocab_size, attention=self.factory, embed=self.embed, seed=seed)


Law = Callable[[Subject], Skipped | None]
"""Returns if the law holds, says so with `Skipped` if it does not apply, and raises `LawBroken` if it is broken."""


def subject_of(name: str, overrides: Sequence[str] = (), config_dirs: Sequence[Path | str] = ()) -> Subject:
    """The subject behind `attention=NAME`, ours or one in a folder of the user's."""
    config = compose_config([f"attention={name}", *overrides], config_dirs)
    return subject_from(ComposedVariant(name, tuple(overrides), tuple(map(Path, config_dirs)), config))


def subject_from(variant: ComposedVariant) -> Subject:
    """The subject behind a variant that has been composed."""
    name, overrides, folders, config = variant
    files = [root / "attention" / f"{name}.yaml" for root in (*folders, config_dir())]
    return Subject(
        name=name,
        factory=attention_factory(config),
        config=config,
        rebuild=lambda more: subject_of(name, [*overrides, *more], folders),
        embed=embedding_factory(config),
        yaml=next((file for file in files if file.is_file()), None),
        position_names=positions(folders),
    )


def positions(config_dirs: Sequence[Path | str] = ()) -> tuple[str, ...]:
    """Every name that position= may have."""
    roots = [*map(Path, config_dirs), config_dir()]
    return tuple(sorted({file.stem for root in roots for file in (root / "position").glob("*.yaml")}))


@torch.no_grad()
def perturbed(module: nn.Module, seed: int = 0) -> None:
    """Move every parameter off its initial value: what is 0 or 1 at first (gains, biases, sinks) must matter, too."""
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator_for(seed, name), dtype=torch.float64)
        parameter.add_(0.2 * noise.to(parameter.dtype))


def tokens(batch: int, length: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Float[Tensor, "b t c"]:
    """Random inputs of a layer. Half of unit size, so that even unscaled scores leave every key some weight."""
    draw = torch.randn(batch, length, D_MODEL, generator=generator_for(seed, f"{batch}x{length}"), dtype=torch.float64)
    return (0.5 * draw).to(dtype)


def ids(batch: int, length: int, seed: int = 0) -> Int[Tensor, "b t"]:
    """Random inputs of a model."""
    return torch.randint(VOCAB, (batch, length), generator=generator_for(seed, f"ids {batch}x{length}"))


def gap(a: Tensor, b: Tensor) -> float:
    """The largest difference, in units of the largest number if that is above 1; infinite if anything is not finite."""
    if not a.numel():
        return 0.0
    a, b = a.detach(), b.detach()
    worst = float((a - b).abs().max() / b.abs().max().clamp(min=1.0))
    return worst if worst == worst else float("inf")


def cuttings(length: int) -> list[list[int]]:
    """Ways to cut a sequence: at once, token by token, one apart at either end, and raggedly."""
    cuts = [[length], [1] * length, [1, length - 1], [length - 1, 1]]
    sizes, ragged, left = (2, 1, 4, 1, 1, 9, 3, 30, 2, 5), [], length
    for i in range(length):
        ragged.append(min(sizes[i % len(sizes)], left))
        left -= ragged[-1]
        if not left:
            break
    cuts.append(ragged)
    return [cut for i, cut in enumerate(cuts) if all(cut) and cut not in cuts[:i]]


def written(cut: Sequence[int]) -> str:
    """A cutting in few words, such as 2+1+4 or 67 x 1."""
    if len(cut) > 3 and len(set(cut)) == 1:
        return f"{len(cut)} x {cut[0]}"
    return "+".join(map(str, cut[:8])) + ("+..." if len(cut) > 8 else "")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's CPU generator at this seed inside the block, and where it was afterwards."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)  # torch.manual_seed visits every accelerator, too: far slower
    try:
        yield
    finally:
        torch.set_rng_state(before)


def one_line(error: BaseException) -> str:
    """An exception as one line."""
    return re.sub(r"\s+", " ", str(error)).strip()
