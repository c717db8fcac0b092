"""Every type of model that is ours under other names."""

from collections.abc import Mapping
from typing import Any

from attnlab.config.run_config import RunConfig
from attnlab.interchange.families.family import Family, refused_type, run_settings
from attnlab.interchange.families.gemma import GEMMA, GEMMA2, GEMMA3
from attnlab.interchange.families.gpt2 import GPT2
from attnlab.interchange.families.gpt_neox import GPT_NEOX, PHI, STABLELM
from attnlab.interchange.families.llama import ARCEE, LLAMA, MISTRAL, QWEN2, QWEN3, SMOLLM3
from attnlab.interchange.families.mpt import MPT
from attnlab.interchange.families.olmo import OLMO, OLMO2

ALL = (
    *(LLAMA, MISTRAL, QWEN2, QWEN3, SMOLLM3, ARCEE, GPT2, GPT_NEOX, MPT, OLMO, OLMO2, GEMMA, GEMMA2, GEMMA3, PHI),
    *(STABLELM,),
)
FAMILIES: Mapping[str, Family] = {family.model_type: family for family in ALL}


def family_for(config: Mapping[str, Any], source: str) -> Family:
    """The family of a config.json. Raises UsageError for a type that is not ours."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise refused_type(source, model_type, sorted(FAMILIES))
    return FAMILIES[model_type]


def family_of(config: RunConfig, vocab_size: int = 2) -> Family | None:
    """The first family that can say all of the settings of one of our runs; None if none can."""
    settings = run_settings(config, vocab_size)
    return next((family for family in ALL if family.fits(settings)), None)
