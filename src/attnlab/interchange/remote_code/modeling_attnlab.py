"""A model trained with attnlab, for transformers: AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True).

The network is attnlab's own (attnlab_source.py). Here stands what transformers asks of one besides: padded rows, the
cache of `generate`, the loss, attention maps and hidden states.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.generation import GenerationMode
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from .attnlab_source import find_class  # noqa: TID252
from .configuration_attnlab import AttnlabConfig  # noqa: TID252

CACHE = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"


def _built(node: Any) -> Any:
    """What settings with a `_target_` describe: an object, or with `_partial_` what makes one."""
    if isinstance(node, list):
        return [_built(value) for value in node]
    if not isinstance(node, dict):
        return node
    settings = {name: _built(value) for name, value in node.items() if name not in ("_target_", "_partial_")}
    if "_target_" not in node:
        return settings
    make = partial(find_class(node["_target_"]), **settings)
    return make if node.get("_partial_") else make()


def _groups(padding: Tensor) -> Iterator[tuple[int, Tensor]]:
    """How many tokens of padding some rows begin with, and which rows; one group for each number that occurs."""
    for pad in padding.unique().tolist():
        yield int(pad), (padding == pad).nonzero().flatten()


class AttnlabCache(Cache):
    """What decoding keeps: the tokens read so far, and the states of the layers, one for each length of padding.

    A state has room for so many tokens; where it is full, a larger one reads the tokens again.
    """

    is_compileable = False

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.ids: Tensor | None = None  # (b, n), padding included
        self.padding: Tensor | None = None  # (b,)
        self.states: dict[int, Any] = {}
        self.rooms: dict[int, int] = {}

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0 if self.ids is None else self.ids.size(1)

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        return -1

    def reset(self) -> None:
        self.ids, self.padding, self.states, self.rooms = None, None, {}, {}

    def crop(self, *_: Any) -> None:
        raise NotImplementedError("the decode state of an attnlab model cannot go back: start again with fewer tokens")

    def step(self, network: Any, ids: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """The logits (b, n, vocab) of n more tokens, zeros where they are padding, and all tokens read."""
        n, self.padding = ids.size(1), padding
        self.ids = ids if self.ids is None else torch.cat([self.ids, ids], dim=1)
        logits = network.head.weight.new_zeros(*ids.shape, network.head.weight.size(0))
        for pad, rows in _groups(padding):
            whole = self.ids[rows, pad:]
            length = whole.size(1)
            if length > self.rooms.get(pad, 0):
                self.rooms[pad] = max(network.context, length + length // 2 if self.rooms.get(pad) else length)
                self.states[pad] = network.init_state(len(rows), self.rooms[pad])
            new, fresh = whole[:, self.states[pad].length :], min(n, length)
            step, self.states[pad] = network.step(new, self.states[pad])
            logits[rows, n - fresh :] = step[:, -fresh:]
        return logits, self.ids

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row i go on from what row beam_idx[i] was."""
        if self.ids is None or self.padding is None:
            return
        beam_idx = beam_idx.to(self.ids.device)
        before, self.padding, self.ids = self.padding, self.padding[beam_idx], self.ids[beam_idx]
        states = {}
        for pad, rows in _groups(self.padding):
            if pad in self.states:
                index = torch.searchsorted((before == pad).nonzero().flatten(), beam_idx[rows])
                pick = partial(_rows, index)
                states[pad] = pytree.tree_map(pick, self.states[pad])
        self.states = states

    def batch_select_indices(self, indices: Tensor) -> None:
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.ids is not None:
            self.reorder_cache(torch.arange(len(self.ids), device=self.ids.device).repeat_interleave(repeats))


def _rows(index: Tensor, leaf: Any) -> Any:
    return leaf[index] if isinstance(leaf, Tensor) else leaf


class AttnlabForCausalLM(PreTrainedModel, GenerationMixin):
    """The network in `model`, with the interface of a causal language model in transformers.

    Rows may be padded on either side; each is computed as if its padding were not there. There is no `position_ids`:
    positions count tokens.
    """

    config_class = AttnlabConfig
    config: AttnlabConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _tied_weights_keys = {"model.head.weight": "model.embedding.weight"}
    _no_split_modules = ["Block"]
    _supports_sdpa = True
    _is_stateful = True
    _supported_generation_modes = [
        GenerationMode.GREEDY_SEARCH,
        GenerationMode.SAMPLE,
        GenerationMode.BEAM_SEARCH,
        GenerationMode.BEAM_SAMPLE,
    ]

    def __init__(self, config: AttnlabConfig) -> None:
        super().__init__(config)
        sizes = find_class("attnlab.options.model_config.ModelConfig")(**config.model)
        self.model = find_class("attnlab.model.GPT")(
            sizes,
            vocab_size=config.vocab_size,
            attention=_built(config.attention),
            embed=_built(config.embed),
            seed=config.seed,
        )
        for module in self.model.modules():
            # from_pretrained leaves buffers that are not stored without values.
            module._non_persistent_buffers_set -= {n for n, b in module.named_buffers(recurse=False) if b.numel()}
        for parameter in self.model.parameters():
            if not parameter.is_meta:  # the start values are attnlab's
                parameter._is_hf_initialized = True
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.embedding = value

    def get_output_embeddings(self) -> nn.Module:
        return self.model.head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.model.head = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: Cache | None = None,
        position_ids: Tensor | None = None,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (b, t, vocab), and what was asked for besides.

        `use_cache` None means no, unless a cache is given. `output_attentions` gives the map of each layer (b, heads,
        t, s), of a memory layer the implied one, or None where it has none.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        own = self._own(past_key_values if cache is None else cache)
        use_cache = own is not None if use_cache is None else use_cache
        if input_ids is None:
            assert inputs_embeds is not None
            if use_cache:
                raise ValueError("inputs_embeds and a cache do not go together here: set use_cache=False")
            input_ids = inputs_embeds.new_zeros(inputs_embeds.shape[:2], dtype=torch.long)
        padding, on_the_right = self._padding(input_ids, attention_mask, own)
        if use_cache and on_the_right:
            raise ValueError("rows that are padded on the right cannot be continued: pad on the left (padding_side)")
        self._check_positions(position_ids, padding, 0 if own is None else own.get_seq_length(), input_ids.size(1))
        self._write_out_maps(self.config._attn_implementation == "eager")

        # With a cache, what was asked for besides is computed of all tokens, and the last n are given.
        logits, whole, n = None, input_ids, input_ids.size(1)
        if use_cache:
            own = AttnlabCache() if own is None else own
            logits, whole = own.step(self.model, input_ids, padding)
        run = partial(self._by_rows, whole, inputs_embeds, padding)
        hidden: Any = None
        maps: Any = None
        if self.config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            *states, every = run(self._with_hidden_states)
            hidden, logits = tuple(state[:, -n:] for state in states), every if logits is None else logits
        if logits is None:
            (logits,) = run(lambda rows: [self.model(rows)])
        if self.config.output_attentions if output_attentions is None else output_attentions:
            maps = tuple(each if each is None else each[:, :, -n:] for each in run(self._maps, square=True))
        logits = _last(logits, logits_to_keep)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **others)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=hidden, attentions=maps, **{CACHE: own if use_cache else None}
        )

    # Rows and their padding.

    def _padding(self, ids: Tensor, mask: Tensor | None, cache: "AttnlabCache | None") -> tuple[Tensor, bool]:
        """How many tokens of padding each row begins with, and whether one ends with some."""
        if cache is not None and cache.padding is not None:
            return cache.padding, False
        if mask is None:
            return ids.new_zeros(ids.size(0)), False
        if mask.ndim != 2 or mask.size(0) != ids.size(0) or mask.size(1) < ids.size(1):
            raise ValueError(f"attention_mask {tuple(mask.shape)} must have a number for each token {tuple(ids.shape)}")
        mask = mask[:, : ids.size(1)].to(ids.device) != 0
        padding, end = ((m.cumsum(dim=1) == 0).sum(dim=1) for m in (mask, mask.flip(1)))
        if bool((padding == mask.size(1)).any()):
            raise ValueError("attention_mask leaves a row without a token: there is nothing to go on from")
        if not bool((padding + mask.sum(dim=1) + end == mask.size(1)).all()):
            raise ValueError("attention_mask has a gap in a row: padding stands before or behind all of its tokens")
        return padding, bool(end.any())

    def _check_positions(self, positions: Tensor | None, padding: Tensor, before: int, n: int) -> None:
        if positions is None:
            return
        ours = torch.arange(before, before + n, device=padding.device) - padding[:, None]
        if not bool(((positions.to(padding.device) == ours) | (ours < 0)).all()):
            raise ValueError(
                "position_ids must count the tokens of a row from 0: several texts in a row are not for this model"
            )

    def _by_rows(
        self,
        ids: Tensor,
        embeds: Tensor | None,
        padding: Tensor,
        compute: Callable[[Tensor], list[Any]],
        square: bool = False,
    ) -> list[Any]:
        """What `compute` makes of each row without its padding, with zeros for that; of maps (`square`) both ways."""
        whole: list[Any] = []
        for pad, rows in _groups(padding):
            with self._given(None if embeds is None else embeds[rows, pad:]):
                parts = compute(ids[rows, pad:])
            if pad == 0 and len(rows) == len(ids):
                return parts
            if not whole:
                whole = [None if part is None else _room(part, ids, square) for part in parts]
            for room, part in zip(whole, parts, strict=True):
                if room is not None and square:
                    room[rows, :, pad:, pad:] = part
                elif room is not None:
                    room[rows, pad:] = part
        return whole

    @contextmanager
    def _given(self, embeds: Tensor | None) -> Iterator[None]:
        """Let the embedding give these, whatever the ids are."""
        if embeds is None:
            yield
            return
        handle = self.model.embedding.register_forward_hook(lambda *_: embeds)
        try:
            yield
        finally:
            handle.remove()

    def _with_hidden_states(self, ids: Tensor) -> list[Tensor]:
        """What enters each block, what leaves the last norm, and the logits."""
        states: list[Tensor] = []
        handles = [b.register_forward_pre_hook(lambda _, args: states.append(args[0])) for b in self.model.blocks]
        handles.append(self.model.norm.register_forward_hook(lambda _, __, y: states.append(y)))
        try:
            logits = self.model(ids)
        finally:
            for handle in handles:
                handle.remove()
        return [*states, logits]

    def _maps(self, ids: Tensor) -> list[Any]:
        return [layer.weights for layer in self.model.attention_maps(ids)]

    def _write_out_maps(self, eager: bool) -> None:
        """Eager attention writes maps out, through a module `map`, where a hook reads or replaces them."""
        for block in self.model.blocks:
            for module in block.attention.modules():
                if hasattr(module, "eager"):
                    module.eager = eager

    # What `generate` asks for.

    def _own(self, cache: Any) -> "AttnlabCache | None":
        if cache is None or isinstance(cache, AttnlabCache):
            return cache
        if hasattr(cache, "get_seq_length") and cache.get_seq_length() == 0:
            return AttnlabCache()
        raise ValueError(
            f"cache ({type(cache).__name__}) is not of this model: leave it out, and take that of the output"
        )

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # the first pass makes one

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, cache: Cache | None = None, past_key_values: Cache | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        cache = self._own(past_key_values if cache is None else cache)
        done = 0 if cache is None else cache.get_seq_length()
        if done >= input_ids.size(1):
            raise ValueError(
                f"the cache has read {done} tokens, but there are only {input_ids.size(1)}: give all of them"
            )
        passed = ("attention_mask", "use_cache", "output_attentions", "output_hidden_states", "logits_to_keep")
        inputs = {name: kwargs[name] for name in passed if kwargs.get(name) is not None}
        return {"input_ids": input_ids[:, done:].to(self.device), "cache": cache, **inputs}


def _room(part: Tensor, ids: Tensor, square: bool) -> Tensor:
    b, t = ids.shape
    return part.new_zeros(b, part.size(1), t, t) if square else part.new_zeros(b, t, *part.shape[2:])


def _last(logits: Tensor, which: int | Tensor) -> Tensor:
    """The logits of so many tokens at the end (0: of all), or of those named."""
    return logits[:, -which:] if isinstance(which, int) else logits[:, which]
