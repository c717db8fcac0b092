"""Runs the modeling code of Hugging Face transformers, tiny and random, and looks at one attention module inside."""

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from tests.oracles.case import BATCH, LENGTH, Recording, coarsen, in_double, recorded
from torch import Tensor, nn

VOCAB = 11
EPS = torch.finfo(torch.float64).eps  # what our norms add when they are compared
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 8,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 32,
    "rms_norm_eps": EPS,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


def module_of(
    kind: str,
    path: str,
    *,
    settings: Mapping[str, Any],
    sizes: Mapping[str, Any] = SIZES,
    decoded: bool = True,
    maps: bool = True,
    inside: str | None = None,
    silent: tuple[str, ...] = (),
) -> Recording:
    """One forward pass of a whole model of this kind, and one with its cache, seen from the module at `path`.

    x is what the module got, y what it gave back (or, with `inside`, what one of its own modules got first), "map" the
    weights it reports, "decoded" its rows when the model reads one token at a time. Parameters whose names end as
    `silent` says are 0, and no inputs.
    """
    with in_double():
        model = tiny(kind, {**sizes, **settings})
        module = model.get_submodule(path)
        for name, p in module.named_parameters():
            p.requires_grad_(not name.endswith(silent))
            p.data.mul_(p.requires_grad)
        without_epsilon(sys.modules[type(module).__module__])
        ids = torch.randint(VOCAB, (BATCH, LENGTH), generator=torch.Generator().manual_seed(2))
        seen, given = watch(module), None if inside is None else watch(module.get_submodule(inside))
        model(input_ids=ids, use_cache=False)
        x, out = seen[0]
        y, attentions = rows(out) if given is None else (given[0][0], None)
        inputs = {"x": x, **{name: p for name, p in module.named_parameters() if p.requires_grad}}
        outputs = {"y": y}
        if maps and attentions is not None:
            outputs["map"] = attentions
        if decoded:
            outputs["decoded"] = stepwise(model, ids, seen if given is None else given, given is not None)
        return recorded(inputs, outputs)


def tiny(kind: str, settings: Mapping[str, Any]) -> Any:
    """A whole model of this kind with coarse random weights, in float64."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **settings)
    config._experts_implementation = "eager"  # the fast one knows no float64
    model = AutoModel.from_config(config, attn_implementation="eager").double().eval()
    coarsen(model)
    for norm in model.modules():
        if "variance_epsilon" in vars(norm):  # some norms inside attention do not read it from the config
            norm.variance_epsilon = EPS
    return getattr(model, "decoder", model)


def without_epsilon(modeling: ModuleType) -> None:
    """Unit length as papers write it: some files add 1e-6 to the square of a length before they divide by it."""
    if (unit := vars(modeling).get("l2norm")) is not None and unit.__name__ == "l2norm":

        def exact(x: Tensor, dim: int = -1, eps: float = 0.0) -> Tensor:
            made: Tensor = unit(x, dim=dim, eps=0.0)
            return made

        modeling.l2norm = exact  # type: ignore[attr-defined]


def rows(out: Any) -> tuple[Tensor, Tensor | None]:
    """The output of an attention module, and its map: the last tensor of numbers that it gives besides."""
    if isinstance(out, Tensor):
        return out, None
    maps = [x for x in out[1:] if isinstance(x, Tensor) and x.is_floating_point()]
    return out[0], maps[-1] if maps else None


def watch(module: nn.Module) -> list[tuple[Tensor, Any]]:
    """What goes into a module and comes out of it, call by call."""
    seen: list[tuple[Tensor, Any]] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"], out))

    module.register_forward_hook(note, with_kwargs=True)
    return seen


@torch.no_grad()
def stepwise(model: nn.Module, ids: Tensor, seen: list[tuple[Tensor, Any]], at_entrance: bool) -> Tensor:
    """The module's rows when the model reads one token after the other with its own cache."""
    seen.clear()
    cache = None
    for token in ids.split(1, dim=1):
        cache = model(input_ids=token, cache=cache, use_cache=True).cache
    return torch.cat([x if at_entrance else rows(out)[0] for x, out in seen], dim=1)
