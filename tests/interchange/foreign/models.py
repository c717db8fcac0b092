"""Tiny random models of transformers with every parameter moved, in memory and in folders with a tokenizer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

VOCAB = 300
USUAL = {
    **{"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "pad_token_id": 0},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 600},
}
HEADS = {"num_key_value_heads": 4}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 2, "mamba_chunk_size": 16}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
DELTA = {"linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 12}
LATENT = {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6}
SEQ2SEQ = {
    **{"vocab_size": VOCAB, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 40},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_ffn_dim": 40, "pad_token_id": 0},
    **{"max_position_embeddings": 600, "decoder_start_token_id": 1, "bos_token_id": 1, "eos_token_id": 2},
}
PICTURE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
BERT = {key: value for key, value in USUAL.items() if key != "num_key_value_heads"}
CONFIGS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "llama": ("LlamaForCausalLM", USUAL),
    "gemma2": ("Gemma2ForCausalLM", {**USUAL, "head_dim": 8, "sliding_window": 5}),
    "bloom": ("BloomForCausalLM", {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        {
            **USUAL,
            **HEADS,
            **LATENT,
            **EXPERTS,
            "q_lora_rank": 16,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "gpt_oss": ("GptOssForCausalLM", {**USUAL, **EXPERTS, "head_dim": 8, "sliding_window": 4}),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        {
            **{**USUAL, **EXPERTS, **DELTA, "num_hidden_layers": 4, "head_dim": 8},
            **{"linear_num_value_heads": 4, "shared_expert_intermediate_size": 16},
        },
    ),
    "olmo_hybrid": ("OlmoHybridForCausalLM", {**USUAL, **DELTA, "num_hidden_layers": 4, "linear_num_value_heads": 2}),
    "kimi_linear": (
        "KimiLinearForCausalLM",
        {
            **{**USUAL, **HEADS, **EXPERTS, **LATENT, "linear_head_dim": 8, "linear_num_heads": 4},
            **{"layer_types": ["linear_attention", "full_attention"]},
        },
    ),
    "minimax": (
        "MiniMaxForCausalLM",
        {
            **{**USUAL, **EXPERTS, "head_dim": 8, "block_size": 16},
            **{"layer_types": ["linear_attention", "full_attention"]},
        },
    ),
    "mamba2": (
        "Mamba2ForCausalLM",
        {
            **{"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "head_dim": 16},
            **{"state_size": 8, "n_groups": 2, "chunk_size": 16},
        },
    ),
    "mamba": ("MambaForCausalLM", {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
    "falcon_h1": ("FalconH1ForCausalLM", {**USUAL, **MAMBA, "mamba_d_ssm": 64}),
    "bamba": ("BambaForCausalLM", {**USUAL, **MAMBA, "attn_layer_indices": [1]}),
    "rwkv": ("RwkvForCausalLM", {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2}),
    "lfm2": ("Lfm2ForCausalLM", {**USUAL, "layer_types": ["conv", "full_attention"]}),
    "bert": ("BertForMaskedLM", BERT),
    "albert": ("AlbertForMaskedLM", {**BERT, "embedding_size": 16, "num_hidden_layers": 3}),
    "t5": (
        "T5ForConditionalGeneration",
        {
            **{"vocab_size": VOCAB, "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4},
            **{"decoder_start_token_id": 0, "pad_token_id": 0},
        },
    ),
    "marian": ("MarianMTModel", SEQ2SEQ),
    "led": (
        "LEDForConditionalGeneration",
        {
            **{key: value for key, value in SEQ2SEQ.items() if key != "max_position_embeddings"},
            **{"attention_window": 8, "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64},
        },
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        {**SEQ2SEQ, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 60, "suppress_tokens": None},
    ),
    "vit": ("ViTModel", {**PICTURE, "image_size": 32, "patch_size": 8}),
    "swin": (
        "SwinModel",
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4},
    ),
}
PICTURES = ("vit", "swin")
WITH_TARGET = ("t5", "marian", "led", "whisper")


def tiny(name: str) -> Any:
    """A model of CONFIGS, the same each time."""
    import transformers

    transformers.logging.set_verbosity_error()
    kind, settings = CONFIGS[name]
    cls = getattr(transformers, kind)
    torch.manual_seed(0)
    model = cls._from_config(cls.config_class(**settings), attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.float().eval()


def inputs(name: str, tokens: int = 21, targets: int = 5) -> dict[str, torch.Tensor]:
    """What a model of CONFIGS takes, one example."""
    draw = torch.Generator().manual_seed(1)
    if name in PICTURES:
        return {"pixel_values": torch.randn(1, 3, 32, 32, generator=draw)}
    source = {"input_ids": torch.randint(3, VOCAB, (1, tokens), generator=draw)}
    if name == "whisper":
        source = {"input_features": torch.randn(1, 8, 40, generator=draw)}
    if name in WITH_TARGET:
        source["decoder_input_ids"] = torch.randint(3, VOCAB, (1, targets), generator=draw)
    return source


def save(name: str, folder: Path) -> Path:
    """Write a model of CONFIGS and a byte-level tokenizer into a folder."""
    tiny(name).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """The 256 bytes, each a token of its own, after a few special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<pad>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE(vocab={sign: i for i, sign in enumerate([*names, *signs])}, merges=[]))
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
