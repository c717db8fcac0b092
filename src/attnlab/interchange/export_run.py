"""What a run becomes for other tools: the files of a folder by name."""

from safetensors.torch import save

from attnlab.config.run_config import RunConfig
from attnlab.data.tokenizers import Tokenizer
from attnlab.interchange.model_card import model_card
from attnlab.interchange.remote_export import remote_folder, untied
from attnlab.model import GPT
from attnlab.store.run_folder import RunFolder


def exported(run: RunFolder, config: RunConfig, model: GPT, tokenizer: Tokenizer, *, to: str) -> dict[str, bytes]:
    """The files of a folder: `hf` for transformers, `safetensors` with nothing but the weights by our names."""
    if to == "safetensors":
        about = {"format": "pt", "run": run.name, "variant": str(run.read_summary().get("variant"))}
        return {"model.safetensors": save(untied(model), metadata=about)}
    card = model_card(run, config, tokenizer, remote=True)
    return {**remote_folder(model, config), "README.md": card.encode()}
