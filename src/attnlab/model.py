"""A plain GPT: token embedding, pre-norm blocks with a pluggable attention, a head."""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnlab.attention.base import Attention, AttentionFactory, Shared, State, evaluating
from attnlab.attention.convolution import ShortConv
from attnlab.attention.cost import Cost
from attnlab.attention.embedding import Embedding, NoEmbedding
from attnlab.attention.norm import RMSNorm
from attnlab.attention.traits import MapKind
from attnlab.errors import UsageError
from attnlab.options import Count, checked
from attnlab.options.model_config import InitKind, MLPKind, ModelConfig

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "rms": RMSNorm,
    "layer": lambda d_model: nn.LayerNorm(d_model, bias=False),
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu2": lambda x: (y := F.relu(x)) * y,  # a product stays in bfloat16 under autocast, a power does not
    "swiglu": F.silu,
}


class MLP(nn.Module):
    """Works on each token alone: down(act(up x)); swiglu multiplies by a second projection (arXiv 2002.05202).

    relu2 is the squared ReLU of arXiv 2109.08668. swiglu is made narrower by a third, for the same parameter count.
    """

    def __init__(self, d_model: int, *, kind: MLPKind, ratio: float, bias: bool) -> None:
        super().__init__()
        gated = kind == "swiglu"
        width = max(1, round(d_model * ratio * (2 / 3 if gated else 1)))
        self.activation = ACTIVATIONS[kind]
        self.up = nn.Linear(d_model, width, bias=bias)
        self.gate = nn.Linear(d_model, width, bias=bias) if gated else None
        self.down = nn.Linear(width, d_model, bias=bias)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, config: ModelConfig, attention: Attention) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = NORMS[config.norm](config.d_model), NORMS[config.norm](config.d_model)
        self.attention = attention
        self.mlp = MLP(config.d_model, kind=config.mlp, ratio=config.mlp_ratio, bias=config.bias)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "b t c"], shared: Shared) -> Float[Tensor, "b t c"]:
        x = x + self.drop(self.attention(self.norm_attention(x), shared))
        return x + self.drop(self.mlp(self.norm_mlp(x)))

    def step(self, x: Float[Tensor, "b n c"], state: State, shared: Shared) -> tuple[Float[Tensor, "b n c"], State]:
        mixed, state = self.attention.step(self.norm_attention(x), state, shared)
        x = x + mixed
        return x + self.mlp(self.norm_mlp(x)), state


class AttentionMap(NamedTuple):
    """One layer's map A in o = A v, its kind, and the L2 norm of each token's value in each head."""

    weights: Float[Tensor, "b h t s"] | None
    kind: MapKind
    value_norm: Float[Tensor, "b h s"] | None


class ModelState(NamedTuple):
    """What decoding keeps: one state per layer, and how many tokens were seen."""

    layers: list[State]
    length: int


class GPT(nn.Module):
    """Predicts the next token from those before it.

    `attention` is called once per layer as factory(d_model, layer=, n_layers=, context=); `embed` once as
    factory(d_model=, context=).
    """

    @checked
    def __init__(
        self,
        config: ModelConfig,
        *,
        vocab_size: Count,
        attention: AttentionFactory,
        embed: Callable[..., Embedding] = NoEmbedding,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.vocab_size, self.context = vocab_size, config.context
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.embed = embed(d_model=config.d_model, context=config.context)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList()
        for layer in range(config.n_layers):
            mixer = attention(config.d_model, layer=layer, n_layers=config.n_layers, context=config.context)
            if not mixer.traits.causal:
                raise UsageError(
                    f"attention of layer {layer} ({type(mixer).__name__}) reads later tokens, so a language model "
                    "could read the answer; set attention.causal=true"
                )
            if mixer.d_out != config.d_model:
                raise UsageError(
                    f"attention of layer {layer} gives width {mixer.d_out}, not model.d_model ({config.d_model})"
                )
            self.blocks.append(Block(config, mixer))
        self.norm = NORMS[config.norm](config.d_model)
        self.head = nn.Linear(config.d_model, vocab_size, bias=False)
        if config.tie:
            self.head.weight = self.embedding.weight
        initialise(self, kind=config.init, seed=seed)

    @property
    def n_parameters(self) -> int:
        """How many scalars there are; a tied head counts once."""
        return sum(p.numel() for p in self.parameters())

    @property
    def layers(self) -> list[Block]:
        """The blocks, first to last."""
        return list(self.blocks)  # type: ignore[arg-type]

    def forward(self, ids: Int[Tensor, "b t"]) -> Float[Tensor, "b t vocab"]:
        x, shared = self.drop(self.embed(self.embedding(ids))), Shared()
        for block in self.blocks:
            x = block(x, shared)
        return self.head(self.norm(x))

    @torch.no_grad()
    def attention_maps(self, ids: Int[Tensor, "b t"]) -> list[AttentionMap]:
        """The map of every layer for these tokens, without dropout; the model's mode is left as it was."""
        maps = []
        with evaluating(self):
            x, shared = self.embed(self.embedding(ids)), Shared()
            for block in self.layers:
                mixer, normed = block.attention, block.norm_attention(x)
                # Of copies: looking must not publish anything twice.
                weights, norms = mixer.weights(normed, shared.copy()), mixer.value_norms(normed, shared.copy())
                maps.append(AttentionMap(weights, mixer.traits.map_kind, norms))
                x = block(x, shared)
        return maps

    def init_state(self, batch: int, max_len: int) -> ModelState:
        """An empty decode state with room for `max_len` tokens."""
        return ModelState([block.attention.init_state(batch, max_len) for block in self.layers], 0)

    def step(self, ids: Int[Tensor, "b n"], state: ModelState) -> tuple[Float[Tensor, "b n vocab"], ModelState]:
        """The logits of n >= 1 more tokens, after those in `state`. The given state may be written into."""
        x, shared, after = self.embed(self.embedding(ids), state.length), Shared(), []
        for block, layer_state in zip(self.layers, state.layers, strict=True):
            x, layer_state = block.step(x, layer_state, shared)
            after.append(layer_state)
        return self.head(self.norm(x)), ModelState(after, state.length + ids.size(1))

    def cost(self, seq_len: int) -> Cost:
        """What the attention of all layers costs together."""
        mixers = [block.attention for block in self.layers]
        first, *rest = (mixer.cost(seq_len, mixers[:i]) for i, mixer in enumerate(mixers))
        for cost in rest:
            first = first + cost
        return first


def generator_for(seed: int, name: str) -> torch.Generator:
    """A random stream of its own for each name, so that adding one parameter changes no other."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**63)


@torch.no_grad()
def initialise(model: GPT, *, kind: InitKind, seed: int) -> None:
    """Set every parameter's initial value: the one place where this is decided.

    Each random tensor is drawn on the CPU from a generator seeded by (seed, its name), so two variants that share a
    tensor start it from the same numbers, on every device. Matrices are normal: `gpt2` with standard deviation 0.02,
    `fan_in` with 1 / sqrt(inputs), embeddings 0.02 in both; the projections that write into the residual stream
    (to_out, down) are divided by sqrt(2 * layers). Convolutions are uniform in +-1 / sqrt(width). Biases are 0.
    Every other parameter (gains, decay rates, sinks) keeps the constant its module gave it.
    """
    depth = (2 * len(model.blocks)) ** -0.5
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            continue
        owner, _, leaf = name.rpartition(".")
        module, draw = model.get_submodule(owner), generator_for(seed, name)
        if isinstance(module, nn.Linear | nn.Embedding) and leaf == "weight":
            matrix = isinstance(module, nn.Linear) and kind == "fan_in" and name != "head.weight"
            std = module.weight.size(1) ** -0.5 if matrix else 0.02
            std *= depth if owner.endswith(("to_out", "down")) else 1.0
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=draw))
        elif isinstance(module, nn.Linear) and leaf == "bias":
            parameter.zero_()
        elif isinstance(module, ShortConv) and leaf == "weight":
            bound = module.width**-0.5
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=draw))
