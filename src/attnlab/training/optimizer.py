"""Optimizers and learning-rate schedules: one recipe per YAML, one torch Optimizer per run."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from attnlab.model import GPT
from attnlab.options import Configurable, Fraction, NonNegative, Positive, option
from attnlab.options.rules import Rule
from attnlab.training.sharding import cut, full, local

Decay = Literal["linear", "cosine", "constant"]
Betas = Annotated[Sequence[float], Rule(float, least=0, below=1, length=2)]


class Recipe(Configurable):
    """What every optimizer shares: the peak rate, its course over the run, weight decay and gradient clipping.

    The rate rises linearly over the first `warmup_fraction` of all steps and then falls. It comes to
    `final_lr_fraction` of its peak just after the last one, so that no update is made at a rate of 0.
    `grad_clip` bounds the L2 norm of all gradients together; null does not.
    """

    lr: Positive = option(doc="Peak learning rate.")
    weight_decay: NonNegative = option(doc="What weights lose per step, times the learning rate.")
    warmup_fraction: Fraction = option(doc="Share of all steps in which the rate rises.")
    decay: Decay = option(doc="How the rate falls after that.")
    final_lr_fraction: Annotated[float, Rule(float, least=0, most=1)] = option(doc="Last rate, as a part of the peak.")
    grad_clip: Positive | None = option(doc="Bound of the L2 norm of all gradients; null: none.")

    def optimizer(self, model: GPT) -> torch.optim.Optimizer:
        """The optimizer of all trainable parameters of a model."""
        raise NotImplementedError

    def factor(self, step: int, max_steps: int) -> float:
        """What the rate of update number `step` (from 0) is multiplied by."""
        warmup = round(self.warmup_fraction * max_steps)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.decay == "constant":
            return 1.0
        done = min(1.0, (step - warmup) / max(1, max_steps - warmup))
        left = 1 - done if self.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        return self.final_lr_fraction + (1 - self.final_lr_fraction) * left


class AdamW(Recipe):
    """AdamW for everything; weight decay acts on all parameters with two axes or more, not on those with one.

    So matrices and embeddings decay, and the gains of norms and the biases of linear maps do not. What a variant keeps
    as one row for each head has two axes and decays, too: the bias of the decay of gla and kda, gains and offsets of
    rwkv7 and ttt.
    Source: arXiv 1711.05101.
    """

    betas: Betas = option(doc="How much of the old means of gradients and of their squares remains.")

    def optimizer(self, model: GPT) -> torch.optim.Optimizer:
        trainable = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.AdamW(
            _by_decay(trainable, self.weight_decay),
            lr=self.lr,
            betas=(self.betas[0], self.betas[1]),
            fused=_can_fuse(trainable),
        )


class Muon(Recipe):
    """Muon for the matrices inside the blocks, AdamW at `adamw_lr` for embeddings, head, gains and the rest.

    Muon replaces the momentum of a matrix by the nearest orthogonal matrix, times sqrt(max(1, rows / columns)).
    Source: K. Jordan and others, "Muon" (2024), and arXiv 2502.16982; the implementation is torch's own.
    """

    momentum: Fraction = option(doc="How much of the last update goes on.")
    adamw_lr: Positive = option(doc="Peak learning rate of what Muon does not train.")
    betas: Betas = option(doc="How much of the old means of gradients and of their squares remains.")

    def optimizer(self, model: GPT) -> torch.optim.Optimizer:
        matrices = matrices_of(model)
        inside = {id(p) for p in matrices}
        others = [p for p in model.parameters() if p.requires_grad and id(p) not in inside]
        return MuonWithAdamW(
            MuonOfParts(
                matrices, lr=self.lr, weight_decay=self.weight_decay, momentum=self.momentum, adjust_lr_fn="original"
            )
            if matrices
            else None,
            torch.optim.AdamW(
                _by_decay(others, self.weight_decay),
                lr=self.adamw_lr,
                betas=(self.betas[0], self.betas[1]),
                fused=_can_fuse(others),
            ),
        )


class MuonOfParts(torch.optim.Muon):
    """Muon, of matrices that may lie in parts on several processes: each process puts one together, updates it as if it
    were alone, and keeps its part."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        if not any(isinstance(p, DTensor) for group in self.param_groups for p in group["params"]):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            options = {key: group[key] for key in self.defaults}
            for p in group["params"]:
                momentum = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                matrix = nn.Parameter(full(p.detach()).clone())
                matrix.grad, whole = full(p.grad), full(momentum).clone()
                alone = torch.optim.Muon([matrix], **options)
                alone.state[matrix]["momentum_buffer"] = whole
                alone.step()
                for part, new in ((p, matrix), (momentum, whole)):
                    local(part.detach()).copy_(local(cut(new.detach(), part)))
        return loss


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimizers that look like one: Lightning, schedulers and checkpoints see one state and one list of groups."""

    def __init__(self, muon: torch.optim.Optimizer | None, adamw: torch.optim.Optimizer) -> None:
        self.parts = [part for part in (muon, adamw) if part is not None]
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._link()

    def _link(self) -> None:
        """The parts work on our state and our groups, so that there is only one of each."""
        at = 0
        for part in self.parts:
            n = len(part.param_groups)
            part.param_groups, part.state = self.param_groups[at : at + n], self.state
            at += n

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._link()


def matrices_of(model: GPT) -> list[Tensor]:
    """The weights of linear maps inside the blocks: what Muon is made for."""
    linear = (m for m in model.blocks.modules() if isinstance(m, nn.Linear))
    return [m.weight for m in linear if m.weight.requires_grad]


def _by_decay(parameters: Sequence[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    decayed = [p for p in parameters if p.ndim >= 2]
    undecayed = [p for p in parameters if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _can_fuse(parameters: Sequence[Tensor]) -> bool:
    """One kernel for all parameters, where torch has it; the update is the same."""
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
