"""Models and tokenizers from folders of Hugging Face's, by transformers: safetensors alone, and none of their code."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from attnlab.data.hf_backend import reader
from attnlab.data.token_labels import label
from attnlab.errors import AttnlabError, UsageError
from attnlab.interchange.foreign.parts import Inspection, inspect
from attnlab.interchange.hf_folder import HFFolder
from attnlab.store.files import parse_json, read_file

MOST_TOKENS = 512  # a map holds tokens^2 weights for each head
STEP = re.compile("checkpoint-([0-9]{1,12})")  # how transformers' Trainer calls its folders
TOKENIZERS = ("tokenizer*", "vocab*", "spiece.model", "*.spm")
ACCEPTED = ("*.json", "*.safetensors", "*.model", "*.spm", "*.txt")  # of what a Hub holds: no code, no pickles


class ForeignModel(NamedTuple):
    """A model with its tokenizer, what it is called, and after how many updates it was stored (0 if unknown)."""

    model: Any
    tokenizer: Any
    name: str
    step: int

    def inspect(self, prompt: str, target: str | None = None) -> Inspection:
        """The maps of a text, and for an encoder with a decoder those of what is written after it, the target.

        Raises UsageError for a text that the model cannot read.
        """
        if (kind := self.model.main_input_name) != "input_ids":
            raise UsageError(
                f"hf ({self.name}) reads {kind}, not text: attnlab.inspect(model, inputs) in Python takes it"
            )
        ids = self._ids("prompt", prompt)
        inputs, labels, target_labels, text = {"input_ids": torch.tensor([ids])}, self.labels(ids), None, prompt
        has_both = self.model.config.is_encoder_decoder
        if target is None and has_both:
            raise UsageError(f"hf ({self.name}) needs a target= besides: it has a decoder beside its encoder")
        if target is not None and not has_both:
            raise UsageError(f"hf ({self.name}) takes no target: it has no decoder beside an encoder")
        if target is not None:
            target_ids = [self.model.config.decoder_start_token_id, *self._ids("target", target, text_target=True)[:-1]]
            inputs["decoder_input_ids"], target_labels = torch.tensor([target_ids]), self.labels(target_ids)
            text = f"{prompt} → {target}"
        with self.refusing():
            return inspect(
                self.model,
                inputs,
                labels=labels,
                target_labels=target_labels,
                name=self.name,
                text=text,
                step=self.step,
            )

    @property
    def context(self) -> int | None:
        """How many tokens the model is made for, where its config says so."""
        context: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return context

    def refusing(self) -> AbstractContextManager[None]:
        """Whatever the model or its tokenizer says within the block is a refusal of one line."""
        return _one_line(self.name)

    def labels(self, ids: list[int]) -> list[str]:
        """A short name for each token, in the characters that it stands for."""
        pieces = self.tokenizer.convert_ids_to_tokens(ids)
        try:
            read = reader(json.loads(self.tokenizer.backend_tokenizer.to_str())["decoder"]).bytes_of
        except (AttributeError, ValueError, KeyError):  # a tokenizer in Python, or one that does not spell
            read = str.encode
        return [label(read(str(piece))) for piece in pieces]

    def _ids(self, key: str, text: str, *, text_target: bool = False) -> list[int]:
        with self.refusing():
            encoded = self.tokenizer(text_target=text) if text_target else self.tokenizer(text)
        ids: list[int] = encoded["input_ids"]
        most = min(self.context or MOST_TOKENS, MOST_TOKENS)
        if not 1 <= len(ids) <= most:
            limit = f"{'the model takes' if most == self.context else 'is drawn'} ({most})"
            raise UsageError(f"{key} ({len(ids)} tokens) must hold at least one token and no more than {limit}")
        return ids


def load_foreign(folder: Path, *, allow_code: bool = False) -> ForeignModel:
    """The model of a folder, in float32, with attention that is written out, and its tokenizer; on the CPU.

    Code in the folder runs only with `allow_code`. Raises UsageError for what cannot be loaded whole.
    """
    transformers = import_transformers()
    if not folder.is_dir():
        raise UsageError(f"hf ({folder}) is no folder; download=true with revision=... fetches a model of the Hub")
    HFFolder(folder)  # refuses pickles, and files that are not what they say
    here = {"local_files_only": True, "trust_remote_code": allow_code}
    with _one_line(folder):
        config = transformers.AutoConfig.from_pretrained(folder, **here)
        of_code = (allow_code and getattr(config, "auto_map", None)) or {}
        named = getattr(transformers, (config.architectures or [""])[0], None)
        kind = named or transformers.AutoModel
        if of_code:
            auto = next((auto for auto in ("AutoModelForCausalLM", "AutoModel") if auto in of_code), "AutoModel")
            kind = getattr(transformers, auto)
        settings = {"dtype": torch.float32, "attn_implementation": "eager", "use_safetensors": True}
        report_all = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, report = kind.from_pretrained(folder, **settings, **here, **report_all)
        tokenizer = transformers.AutoTokenizer.from_pretrained(_tokenizer_home(folder), **here)
    for key, what in (("missing_keys", "lacks"), ("mismatched_keys", "holds in another shape")):
        if names := sorted(each if isinstance(each, str) else each[0] for each in report[key]):
            raise UsageError(f"hf ({folder}) {what} {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}")
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise UsageError(f"hf ({folder}): {name} holds numbers that are not finite")
    return ForeignModel(model.eval(), tokenizer, run_name(folder), step_of(folder) or 0)


def import_transformers() -> Any:
    """The package transformers, quiet and offline; refuses where it is not installed."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when it is imported: a folder is all that is needed
    try:
        import transformers
    except ImportError as error:
        raise UsageError("hf= needs the package transformers: pip install 'attnlab[hf]'") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def fetched(name: str, revision: str | None) -> Path:
    """The folder of a model of the Hub, in Hugging Face's cache, at a revision that must be named."""
    if revision is None:
        raise UsageError(f"hf ({name}): download=true needs revision=..., the commit to be fetched")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UsageError("download=true needs the package huggingface_hub: pip install 'attnlab[hf]'") from error
    with _one_line(name):
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(ACCEPTED)))


def step_of(folder: Path) -> int | None:
    """After how many updates a training stored a folder; None where nothing says so."""
    try:
        step = parse_json(read_file(folder / "trainer_state.json", 2**28)).get("global_step")
        if type(step) is int and step >= 0:
            return step
    except (OSError, ValueError, AttributeError):
        pass
    match = STEP.fullmatch(folder.resolve().name)
    return int(match[1]) if match else None


def run_name(folder: Path) -> str:
    """What the model of a folder is called: a checkpoint by the training that stored it."""
    path = folder.resolve()
    return (path.parent if STEP.fullmatch(path.name) else path).name


def _tokenizer_home(folder: Path) -> Path:
    """Where a model's tokenizer lies; that of a training's checkpoints may lie beside them."""
    homes = [folder, folder.resolve().parent] if STEP.fullmatch(folder.resolve().name) else [folder]
    for home in homes:
        if any(path for pattern in TOKENIZERS for path in home.glob(pattern)):
            return home
    raise UsageError(f"hf ({folder}) holds no tokenizer: none of {', '.join(TOKENIZERS)}")


@contextmanager
def _one_line(name: object) -> Iterator[None]:
    """Whatever transformers says about a folder, in a line."""
    try:
        yield
    except (AttnlabError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(f"{error}".split()) or type(error).__name__
        if "trust_remote_code" in reason:
            reason = "it needs code that lies in the folder; allow_code=true runs it, if you trust it"
        raise UsageError(f"hf ({name}): {reason[:300]}") from error
