"""A plain GPT: token embedding, blocks with a pluggable attention, a head."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from attnlab.attention.base import Attention, AttentionFactory, Shared, State
from attnlab.attention.convolution import Canon, ShortConv
from attnlab.attention.cost import Cost
from attnlab.attention.depth import Depth, DepthMix
from attnlab.attention.documents import Documents, Start
from attnlab.attention.embedding import Embedding, NoEmbedding, Smear
from attnlab.attention.evaluating import evaluating
from attnlab.attention.norm import LayerNorm, RMSNorm
from attnlab.attention.published import published_starts
from attnlab.attention.signature import with_signature
from attnlab.attention.tokens import tell_vocabulary
from attnlab.attention.traits import MapKind
from attnlab.errors import UsageError
from attnlab.options import Count, checked
from attnlab.options.model_config import GATED, InitKind, MLPKind, ModelConfig

CANON_WIDTH = 4  # tokens that a Canon layer of a block sees, as in the paper
tanh_gelu = partial(F.gelu, approximate="tanh")


class ReLUSquared(torch.autograd.Function):
    """relu(x)^2, and relu(x) beside it, which the way back needs: 2 relu(x) is the slope, with 0 where x is below.

    As a product of two equal factors it would take four passes back where one does. Double differentiation is refused.
    """

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        y = F.relu(x)
        return y * y, y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Float[Tensor, "*shape"], _: None) -> Float[Tensor, "*shape"]:
        (y,) = ctx.saved_tensors
        return torch.addcmul(y.new_zeros(()), slope, y, value=2)  # one pass, where a product and its double are two


def relu_squared(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """relu(x)^2: a product stays in bfloat16 under autocast, a power does not. With a name, it can be pickled."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():  # one pass of the compiler's; nothing to go back
        return (y := F.relu(x)) * y
    return ReLUSquared.apply(x)[0]


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": tanh_gelu,
    "relu": F.relu,
    "relu2": relu_squared,
    "silu": F.silu,
    "swiglu": F.silu,
    "geglu": F.gelu,
    "geglu_tanh": tanh_gelu,
    "reglu": F.relu,
}


class XIELU(nn.Module):
    """alpha_p x^2 + beta x above 0, alpha_n (exp(x) - 1 - x) + beta x below (arXiv 2411.13010).

    Learned are both alphas: alpha_p = softplus(`alpha_p`), alpha_n = `beta` + softplus(`alpha_n`), which start at 0.8.
    `beta` and `eps` are frozen: they are tensors as in Apertus (arXiv 2509.14233), which takes exp of min(x, eps).
    """

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(0.5), requires_grad=False)
        self.eps = nn.Parameter(torch.tensor(-1e-6), requires_grad=False)
        self.alpha_p, self.alpha_n = (nn.Parameter(torch.tensor([0.8 - b]).expm1().log()) for b in (0.0, 0.5))

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        below = (self.beta + F.softplus(self.alpha_n)) * (torch.minimum(x, self.eps).expm1() - x)
        return torch.where(x > 0, F.softplus(self.alpha_p) * x * x, below) + self.beta * x


def make_norm(config: ModelConfig) -> RMSNorm | LayerNorm:
    """A norm over the model's width, as the config describes it."""
    settings: dict[str, Any] = {"gain": config.norm_gain, "unit_offset": config.norm_unit_offset}
    if config.norm_eps is not None:
        settings["eps"] = config.norm_eps
    if config.norm == "rms":
        return RMSNorm(config.d_model, **settings)
    return LayerNorm(config.d_model, **settings, bias=config.norm_bias)


class MLP(nn.Module):
    """Works on each token alone: down(act(up x)); gated kinds multiply by a second projection, down(act(gate x) up x).

    Gated are swiglu, geglu, with its GELU by erf or by tanh, and reglu (arXiv 2002.05202). gelu_tanh is the
    approximation of arXiv 1606.08415, which has silu, too; relu2 is the squared ReLU of arXiv 2109.08668.
    """

    def __init__(self, d_model: int, *, kind: MLPKind, width: int, bias: bool, canon: bool = False) -> None:
        super().__init__()
        self.activation = XIELU() if kind == "xielu" else ACTIVATIONS[kind]
        self.up = nn.Linear(d_model, width, bias=bias)
        self.gate = nn.Linear(d_model, width, bias=bias) if kind in GATED else None
        self.down = nn.Linear(width, d_model, bias=bias)
        self.canon = Canon(width * (1 if self.gate is None else 2), CANON_WIDTH) if canon else None

    def forward(self, x: Float[Tensor, "b t c"], tails: "Tails | None" = None) -> Float[Tensor, "b t c"]:
        if self.canon is not None and tails is not None:
            wide = self.up(x) if self.gate is None else torch.cat([self.gate(x), self.up(x)], dim=-1)
            *gate, up = tails.through("d", self.canon, wide).split(self.up.out_features, dim=-1)
            return self.down(self.activation(gate[0]) * up if gate else self.activation(up))
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))


class Tails:
    """What the Canon layers of a block remember of the tokens before these, by their letters."""

    def __init__(self, start: Start, tails: dict[str, Tensor] | None = None) -> None:
        self.start, self.tails = start, dict(tails or {})

    def through(self, letter: str, canon: Canon | None, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """What the Canon layer of this letter makes of x; x itself where there is none."""
        if canon is None:
            return x
        mixed, self.tails[letter] = canon(x, self.tails.get(letter), self.start)
        return mixed.to(x.dtype)


class BlockState(NamedTuple):
    """What a block with Canon layers keeps while decoding."""

    attention: State
    tails: dict[str, Tensor]


class Block(nn.Module):
    """Two halves, attention and MLP, each added to what comes in: x + attention(norm x), then x + mlp(norm x).

    With `norm_place` post the norms stand behind, x + norm(attention x), as in OLMo 2 (arXiv 2501.00656), with sandwich
    on both sides, as in Gemma 2 (arXiv 2408.00118). With `parallel` both halves read the same: x + attention(norm x) +
    mlp(norm x), as in GPT-J, where `norm_shared` makes it one norm. What is added is multiplied by `residual_scale`.
    Without an MLP there is no second half. With `residual` attention, what a half reads is no sum but a mixture of all
    that was written below it (attention residuals, arXiv 2603.15031). `canon` puts residual convolutions (arXiv
    2512.17351) before the attention (a), before the MLP (c) and inside it (d).
    """

    def __init__(self, config: ModelConfig, attention: Attention) -> None:
        super().__init__()
        norms, canon = config.norm_place_of(attention.layer), config.canon or ""
        before, behind, has_mlp = norms != "post", norms != "pre", config.mlp != "none"
        self.parallel, self.norm_shared, self.scale = config.parallel, config.norm_shared, config.residual_scale
        # In this order, for a checkpoint holds what an optimizer keeps of each parameter by its number.
        self.norm_attention = make_norm(config) if before else nn.Identity()
        self.norm_mlp = make_norm(config) if before and has_mlp and not config.norm_shared else nn.Identity()
        self.attention = attention
        self.mlp = None
        if config.mlp != "none":
            sizes: dict[str, Any] = {"width": config.hidden, "bias": config.bias}
            self.mlp = MLP(config.d_model, kind=config.mlp, canon="d" in canon, **sizes)
        self.norm_attention_out = make_norm(config) if behind else nn.Identity()
        self.norm_mlp_out = make_norm(config) if behind and has_mlp else nn.Identity()
        self.drop = nn.Dropout(config.dropout)
        self.canon_attention, self.canon_mlp = (
            Canon(config.d_model, CANON_WIDTH) if letter in canon else None for letter in "ac"
        )
        self.has_canon, self.over_depth = bool(canon), config.residual == "attention"
        # The first half of all has nothing but the embeddings to choose from.
        self.depth_attention = DepthMix(config.d_model) if self.over_depth and attention.layer else None
        self.depth_mlp = DepthMix(config.d_model) if self.over_depth and has_mlp else None

    def attention_input(
        self, x: Float[Tensor, "b t c"], shared: Shared, tails: Tails | None = None
    ) -> Float[Tensor, "b t c"]:
        """What the attention is given of x, or of all that was written below."""
        if self.over_depth and shared.get(Depth) is None:
            shared.publish(Depth((x,)))
        x = x if self.depth_attention is None else self.depth_attention(shared.read(Depth))
        return (tails or Tails(shared.documents or 0)).through("a", self.canon_attention, self.norm_attention(x))

    def forward(self, x: Float[Tensor, "b t c"], shared: Shared) -> Float[Tensor, "b t c"]:
        tails = Tails(shared.documents or 0)
        normed = self.attention_input(x, shared, tails)
        return self._add(x, normed, self.attention(normed, shared), shared, tails)

    def init_state(self, batch: int, max_len: int) -> State:
        """An empty decode state with room for `max_len` tokens."""
        state = self.attention.init_state(batch, max_len)
        if not self.has_canon:
            return state
        canons = {"a": self.canon_attention, "c": self.canon_mlp, "d": None if self.mlp is None else self.mlp.canon}
        return BlockState(state, {letter: canon.empty(batch) for letter, canon in canons.items() if canon is not None})

    def step(self, x: Float[Tensor, "b n c"], state: State, shared: Shared) -> tuple[Float[Tensor, "b n c"], State]:
        its_state, tails = state if self.has_canon else (state, None)
        remembered = Tails(0, tails)
        normed = self.attention_input(x, shared, remembered)
        mixed, its_state = self.attention.step(normed, its_state, shared)
        x = self._add(x, normed, mixed, shared, remembered)
        return x, BlockState(its_state, remembered.tails) if self.has_canon else its_state

    def _add(
        self,
        x: Float[Tensor, "b t c"],
        normed: Float[Tensor, "b t c"],
        mixed: Float[Tensor, "b t c"],
        shared: Shared,
        tails: Tails,
    ) -> Float[Tensor, "b t c"]:
        """x and what both halves add to it, of which the attention's is `mixed`, made from `normed`."""
        written = _times(self.drop(self.norm_attention_out(mixed)), self.scale)
        attended = self._over_depth(self.depth_mlp, written, shared) if self.over_depth else x + written
        if self.mlp is None:
            return attended
        entrance = self.norm_mlp((normed if self.norm_shared else x) if self.parallel else attended)
        entrance = tails.through("c", self.canon_mlp, entrance)
        written = _times(self.drop(self.norm_mlp_out(self.mlp(entrance, tails))), self.scale)
        return self._over_depth(None, written, shared) if self.over_depth else attended + written

    def _over_depth(
        self, mix: DepthMix | None, written: Float[Tensor, "b t c"], shared: Shared
    ) -> Float[Tensor, "b t c"]:
        """Put down what a half has written, and mix all that was; what it wrote itself where nothing is to read it."""
        depth = Depth((*shared.read(Depth).outputs, written))
        shared.publish(depth)
        return written if mix is None else mix(depth)


def _times(x: Tensor, factor: float) -> Tensor:
    """x itself where the factor is 1: a product would cost a pass over it."""
    return x if factor == 1 else x * factor


class AttentionMap(NamedTuple):
    """One layer's map A in o = A v, its kind, and the L2 norm of each token's value in each head."""

    weights: Float[Tensor, "b h t s"] | None
    kind: MapKind
    value_norm: Float[Tensor, "b h s"] | None


def _joined(maps: Sequence[AttentionMap], documents: Documents) -> AttentionMap:
    """The map of a layer from those of batches of documents."""
    weights = [part.weights for part in maps if part.weights is not None]
    norms = [part.value_norm for part in maps if part.value_norm is not None]
    whole = documents.blocks(weights) if weights else None
    return AttentionMap(whole, maps[0].kind, documents.together(norms, 2) if norms else None)


class ModelState(NamedTuple):
    """What decoding keeps: one state per layer, and how many tokens were seen."""

    layers: list[State]
    length: int
    before: Tensor | None = None  # the embedding of the last token, where the next one smears it in


class GPT(nn.Module):
    """Predicts the next token from those before it.

    `attention` is called once per layer as factory(d_model, layer=, n_layers=, context=); `embed` once as
    factory(d_model=, context=).
    """

    checkpoint_activations = False  # in training; `build_model` sets it

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
        self.embed_scale, self.logit_scale, self.softcap = config.embed_scale, config.logit_scale, config.final_softcap
        self.embed = embed(d_model=config.d_model, context=config.context)
        self.embed_norm = make_norm(config) if config.embed_norm else nn.Identity()
        self.smear = Smear(config.d_model) if config.smear else None
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
            tell_vocabulary(mixer, vocab_size)
            self.blocks.append(Block(config, mixer))
        self.depth = DepthMix(config.d_model) if config.residual == "attention" else None
        self.norm = make_norm(config)
        self.head = nn.Linear(config.d_model, vocab_size, bias=config.head_bias)
        if config.tie:
            self.head.weight = self.embedding.weight
        initialise(self, kind=config.init, seed=seed)
        if config.start == "published":
            start_as_published(self, seed=seed)

    @property
    def n_parameters(self) -> int:
        """How many scalars there are; a tied head counts once."""
        return sum(p.numel() for p in self.parameters())

    @property
    def layers(self) -> list[Block]:
        """The blocks, first to last."""
        return list(self.blocks)  # type: ignore[arg-type]

    def forward(
        self, ids: Int[Tensor, "b t"], documents: Int[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b t vocab"]:
        """The logits after each token; `documents` numbers those of a row, token by token: 0, 0, 1, ...

        Those do not see each other, and positions begin again in each. Where a layer's own code does not honour them,
        each document is run alone, beside others of like length.
        """
        packed = None if documents is None else Documents(documents)
        if packed is not None and not self.honours_documents:
            return packed.together([self(part) for part in packed.apart(ids, 1)], 1)
        x, shared = self.drop(self.entrance(ids, packed or 0)), Shared(packed, ids)
        forgets = self.checkpoint_activations and self.training and torch.is_grad_enabled()
        for block in self.layers:
            x = self._forgetting(block, x, shared) if forgets else block(x, shared)
        return self.logits(self._top(x, shared))

    def _top(self, x: Float[Tensor, "b t c"], shared: Shared) -> Float[Tensor, "b t c"]:
        """What the blocks come to: what the last one gives, or a mixture of all that was written."""
        return x if self.depth is None else self.depth(shared.read(Depth))

    def _forgetting(self, block: Block, x: Float[Tensor, "b t c"], shared: Shared) -> Float[Tensor, "b t c"]:
        """What the block gives, of which the backward pass keeps what went in, and computes the rest once more.

        What earlier layers published is part of what went in: the block works on a copy each time, so that the second
        pass reads what the first one read, and publishes to nobody (arXiv 1604.06174).
        """
        before, published = shared.copy(), list[Shared]()

        def compute(x: Tensor) -> Tensor:
            own = before.copy()
            y: Tensor = block(x, own)
            published[:] = [own]
            return y

        y: Tensor = checkpoint(compute, x, use_reentrant=False)
        last = published.pop()
        shared.records, shared.parts = last.records, last.parts
        return y

    @property
    def honours_documents(self) -> bool:
        """Whether the code of every part takes documents in a row."""
        return all(getattr(part, "documents", True) for part in self.modules())

    def entrance(self, ids: Int[Tensor, "b t"], start: Start = 0) -> Float[Tensor, "b t c"]:
        """What the first block is given: token embeddings, scaled, with their positions from `start` on, and normed."""
        x = self._embedded(ids, start)
        return x if self.smear is None else self.smear(x, None, start)

    def _embedded(self, ids: Int[Tensor, "b t"], start: Start) -> Float[Tensor, "b t c"]:
        return self.embed_norm(self.embed(_times(self.embedding(ids), self.embed_scale), start))

    def logits(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t vocab"]:
        """What the last block gives as logits: normed, through the head, scaled, and held within +-`final_softcap`."""
        logits = _times(self.head(self.norm(x)), self.logit_scale)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    @torch.no_grad()
    def attention_maps(
        self, ids: Int[Tensor, "b t"], documents: Int[Tensor, "b t"] | None = None
    ) -> list[AttentionMap]:
        """The map of every layer for these tokens, without dropout; the model's mode is left as it was."""
        packed = None if documents is None else Documents(documents)
        if packed is not None and not self.honours_documents:
            each = [self.attention_maps(part) for part in packed.apart(ids, 1)]
            return [_joined(layer, packed) for layer in zip(*each, strict=True)]
        maps = []
        with evaluating(self):
            x, shared = self.entrance(ids, packed or 0), Shared(packed, ids)
            for block in self.layers:
                mixer, normed = block.attention, block.attention_input(x, shared)
                # Of copies: looking must not publish anything twice.
                weights, norms = mixer.weights(normed, shared.copy()), mixer.value_norms(normed, shared.copy())
                maps.append(AttentionMap(weights, mixer.traits.map_kind, norms))
                x = block(x, shared)
        return maps

    def init_state(self, batch: int, max_len: int) -> ModelState:
        """An empty decode state with room for `max_len` tokens."""
        return ModelState([block.init_state(batch, max_len) for block in self.layers], 0)

    def step(self, ids: Int[Tensor, "b n"], state: ModelState) -> tuple[Float[Tensor, "b n vocab"], ModelState]:
        """The logits of n >= 1 more tokens, after those in `state`. The given state may be written into."""
        x, shared, after = self._embedded(ids, state.length), Shared(ids=ids), []
        before = x[:, -1:] if self.smear is not None and ids.size(1) else state.before
        if self.smear is not None:
            x = self.smear(x, state.before, state.length)
        for block, layer_state in zip(self.layers, state.layers, strict=True):
            x, layer_state = block.step(x, layer_state, shared)
            after.append(layer_state)
        return self.logits(self._top(x, shared)), ModelState(after, state.length + ids.size(1), before)

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
    `fan_in` with 1 / sqrt(inputs), embeddings 0.02 in both, before `embed_scale`; the projections that write into the
    residual stream (to_out, down) are divided by sqrt(2 * layers). Biases are 0. `torch` is what torch.nn draws:
    matrices and biases uniform in +-1 / sqrt(inputs), embeddings normal with standard deviation 1 (so a head that is
    tied to them, too), nothing divided. Convolutions are uniform in +-1 / sqrt(width). Every other parameter (gains,
    decay rates, sinks) keeps the constant its module gave it.
    """
    depth = (2 * len(model.blocks)) ** -0.5
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            continue
        owner, _, leaf = name.rpartition(".")
        module, draw = model.get_submodule(owner), generator_for(seed, name)
        if kind == "torch" and isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=draw))
        elif isinstance(module, nn.Linear | nn.Embedding) and leaf == "weight":
            matrix = isinstance(module, nn.Linear) and kind == "fan_in" and name != "head.weight"
            std = module.weight.size(1) ** -0.5 if matrix else 1.0 if kind == "torch" else 0.02
            std *= depth if owner.endswith(("to_out", "down")) else 1.0
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=draw))
        elif isinstance(module, nn.Linear) and leaf == "bias":
            parameter.zero_()
        elif isinstance(module, ShortConv) and leaf == "weight":
            bound = module.width**-0.5
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=draw))


@torch.no_grad()
def start_as_published(model: GPT, *, seed: int) -> None:
    """Give the attention of each layer what its source starts otherwise than we do (attention/published.py)."""
    for i, block in enumerate(model.layers):
        for name, start in published_starts(block.attention).items():
            parameter = block.attention.get_parameter(name)
            if start.draw is not None and not parameter.is_meta:
                draw = generator_for(seed, f"blocks.{i}.attention.{name} as published")
                parameter.copy_(start.draw(tuple(parameter.shape), draw))
