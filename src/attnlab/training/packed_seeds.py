"""Seeds of one variant trained as one batch: models too small to keep a device busy share every operation."""

import copy
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnlab.errors import UsageError
from attnlab.model import GPT
from attnlab.training.optimizer import Recipe


class PackedSeeds:
    """Models that differ in their weights alone, one more axis on every tensor: each trains as it would by itself.

    Gradients are clipped and weights updated seed by seed, at the rate that `recipe` gives for `max_steps` updates.
    Raises UsageError for what would not be the single run: dropout, whose numbers follow a run's own seed; an optimizer
    that is not elementwise; a layer that looks at its numbers and then decides.
    """

    def __init__(self, models: Sequence[GPT], recipe: Recipe, max_steps: int) -> None:
        if any(getattr(m, "p", 0.0) > 0 or getattr(m, "dropout", 0.0) for m in models[0].modules()):
            raise UsageError("seeds are packed without dropout: set model.dropout=0 and attention.dropout=0")
        self.recipe, self.max_steps, self.made_steps = recipe, max_steps, 0
        self.optimizer = recipe.optimizer(models[0])
        if not isinstance(self.optimizer, torch.optim.AdamW):
            raise UsageError(f"seeds are packed with AdamW, and not with {type(recipe).__name__}: its updates mix rows")
        self.parameters, self.buffers = stack_module_state(list(models))
        names = {id(p): name for name, p in models[0].named_parameters()}
        for group in self.optimizer.param_groups:  # by the axes that a parameter has without the seeds
            group["params"] = [self.parameters[names[id(p)]] for p in group["params"]]
        self.skeleton = copy.deepcopy(models[0])

    def losses(self, ids: Int[Tensor, "n b t"], targets: Int[Tensor, "n b t"]) -> Float[Tensor, " n"]:
        """The mean loss of each seed on a batch of its own."""

        def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor], ids: Tensor, targets: Tensor) -> Tensor:
            logits = functional_call(self.skeleton, (parameters, buffers), (ids,))
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

        try:
            # A CPU's fused kernel knows no further axis, and would be called seed by seed.
            with sdpa_kernel(SDPBackend.MATH) if ids.device.type == "cpu" else nullcontext():
                return vmap(loss)(self.parameters, self.buffers, ids, targets)
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            kind = type(self.skeleton.layers[0].attention).__name__
            raise UsageError(f"{kind} cannot be packed: it decides by its numbers, or has its own gradients") from error

    def step(self, ids: Int[Tensor, "n b t"], targets: Int[Tensor, "n b t"]) -> Float[Tensor, " n"]:
        """One update of every seed; gives the losses before it."""
        losses = self.losses(ids, targets)
        self.optimizer.zero_grad()
        losses.sum().backward()
        if self.recipe.grad_clip is not None:
            self._clip(self.recipe.grad_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * self.recipe.factor(self.made_steps, self.max_steps)
        self.optimizer.step()
        self.made_steps += 1
        return losses.detach()

    @torch.no_grad()
    def _clip(self, most: float) -> None:
        """Bound the norm of all gradients of each seed, as `torch.nn.utils.clip_grads_with_norm_` does of one."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        factors = (most / (norms + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(factors.view(-1, *[1] * (g.ndim - 1)))

    @torch.no_grad()
    def unpack(self, models: Sequence[GPT]) -> None:
        """Write the weights of each seed into a model of its own."""
        for i, model in enumerate(models):
            for name, p in model.named_parameters():
                p.copy_(self.parameters[name][i])
