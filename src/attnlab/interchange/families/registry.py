"""Every type of model that is ours under other names."""

from collections.abc import Mapping
from typing import Any

from attnlab.config.run_config import RunConfig
from attnlab.interchange.families import (
    cohere,
    deepseek,
    diffllama,
    falcon,
    gemma,
    gpt2,
    gpt_neox,
    hybrid,
    llama,
    mamba2,
    mpt,
    nanochat,
    olmo,
    opt,
)
from attnlab.interchange.families.family import Family, refused_type
from attnlab.interchange.families.model_settings import ModelSettings, settings_of_run, spelled_out

# The first that fits is the one that a run is written as.
ALL = (
    *(llama.LLAMA, llama.MISTRAL, llama.QWEN2, llama.QWEN3, llama.SMOLLM3, llama.ARCEE, gpt2.GPT2, gpt_neox.GPT_NEOX),
    *(mpt.MPT, olmo.OLMO, olmo.OLMO2, gemma.GEMMA, gemma.GEMMA2, gemma.GEMMA3, gpt_neox.PHI, gpt_neox.STABLELM),
    *(llama.SEED_OSS, llama.MINISTRAL, llama.CWM, llama.HUNYUAN, llama.GRANITE, llama.ERNIE, llama.HELIUM, llama.PHI3),
    *(llama.GLM, llama.GLM4, gpt_neox.STARCODER2, gpt_neox.NEMOTRON, gpt_neox.JAIS2, gpt_neox.PERSIMMON, olmo.OLMO3),
    *(olmo.EXAONE4, gemma.VAULTGEMMA, cohere.COHERE, cohere.COHERE2, nanochat.NANOCHAT, gpt2.BIGCODE, gpt2.GPT_NEO),
    *(gpt2.GPTJ, gpt2.BLOOM, gpt2.CODEGEN, falcon.FALCON, opt.OPT, opt.BIOGPT, llama.EXAONE, llama.INTERNLM3),
    *(llama.IQUESTCODER, llama.HYPERCLOVAX, llama.APERTUS, llama.MINISTRAL3, diffllama.DIFFLLAMA),
    *(deepseek.DEEPSEEK_V3, mamba2.MAMBA2, hybrid.QWEN3_NEXT, hybrid.QWEN3_5, hybrid.OLMO_HYBRID),
    *(deepseek.DEEPSEEK_V2, deepseek.YOUTU),
)
FAMILIES: Mapping[str, Family] = {family.model_type: family for family in ALL}


def family_for(content: Mapping[str, Any], source: str) -> Family:
    """The family of a config.json. Raises UsageError for a type that is not ours."""
    model_type = content.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise refused_type(source, model_type, sorted(FAMILIES))
    return FAMILIES[model_type]


def native_form(config: RunConfig, vocab_size: int, *, like: str | None = None) -> tuple[Family, ModelSettings] | None:
    """The first family that can say all of the settings of one of our runs, and the settings as it says them; None if
    none can. `like` is the type of the model that it was read from, which goes before the others."""
    settings = settings_of_run(config, vocab_size)
    families = sorted(ALL, key=lambda family: family.model_type != like)
    for each in (settings, spelled_out(settings)):
        if family := next((family for family in families if family.fits(each)), None):
            return family, each
    return None
