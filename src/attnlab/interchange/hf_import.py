"""From a model's folder of Hugging Face's to a run folder, as if the run had just been trained."""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn

from attnlab.build import build_model
from attnlab.config.code import code_of
from attnlab.config.compose import compose_config
from attnlab.config.keys import one_spelling, settings_of, without_secrets
from attnlab.config.run_config import Node, RunConfig
from attnlab.data.corpus import Stories
from attnlab.data.download import sha256_of
from attnlab.data.hf_files import load_hf_tokenizer
from attnlab.data.tokenizers import RankTokenizer, Tokenizer
from attnlab.data.vocabularies import Tiktoken
from attnlab.errors import AttnlabError, UsageError
from attnlab.interchange.families.family import Family, Link
from attnlab.interchange.families.model_settings import ModelSettings
from attnlab.interchange.families.registry import family_for
from attnlab.interchange.gguf_file import GGUFFile
from attnlab.interchange.gguf_tokenizer import read_tokenizer
from attnlab.interchange.hf_folder import CONFIG, DTYPES, HFFolder
from attnlab.interchange.own_export import is_own, own_config, own_family, own_links
from attnlab.interchange.torch_file import TorchFile, read_meta
from attnlab.store.digests import digest
from attnlab.store.files import check_new_folder, new_folder, write_atomically
from attnlab.store.metrics_csv import COLUMNS
from attnlab.store.run_folder import RunFolder
from attnlab.store.status import Status

USUAL_CONTEXT = 1024  # tokens of a row of text where nobody says how many, and the model takes more
VOCABULARY, OF_RUN = "attnlab.data.vocabularies.HuggingFace", "attnlab.data.vocabularies.OfRun"
CACHE = Path(".cache/attnlab")  # where paths.cache usually is
META = "meta.pkl"  # the characters of a model of nanoGPT's
Source = HFFolder | GGUFFile | TorchFile


class Imported(NamedTuple):
    """A model that was read: the config of a run, the parameters by our names, and where they come from."""

    config: RunConfig
    tokenizer: Tokenizer
    weights: dict[str, Tensor]
    origin: dict[str, Any]


def import_folder(hf: Path, folder: Path, *, context: int | None = None) -> RunFolder:
    """Write a run folder with the model of a folder of Hugging Face's.

    `context` is how many tokens a row of text has, at most those that the model was made for.
    """
    return write_run(folder, lambda: read_model(hf, context=context))


def import_gguf(gguf: Path, folder: Path, *, context: int | None = None) -> RunFolder:
    """Write a run folder with the model of a GGUF file, its numbers in float32 and its tokenizer beside it."""
    return write_run(folder, lambda: read_gguf(gguf, folder, context=context))


def import_file(
    ckpt: Path, folder: Path, *, tokenizer: Path | None = None, n_heads: int | None = None, context: int | None = None
) -> RunFolder:
    """Write a run folder with the model of nanoGPT's ckpt.pt, or of the book's GPT.

    `tokenizer` is a folder of Hugging Face's or nanoGPT's meta.pkl; None: a meta.pkl beside the file, else GPT-2's.
    """
    return write_run(
        folder, lambda: read_file_of_torch(ckpt, folder, tokenizer=tokenizer, n_heads=n_heads, context=context)
    )


def write_run(folder: Path, read: Callable[[], Imported]) -> RunFolder:
    """Write a run folder. Everything is read and checked before; a folder that is there must be empty."""
    check_new_folder(folder, key="folder")
    model = read()
    with new_folder(folder, key="folder") as home:
        _write(RunFolder(home), model)
    return RunFolder(folder)


def read_model(hf: Path, *, context: int | None = None) -> Imported:
    """The model of a folder of Hugging Face's, checked. Raises UsageError for what cannot be read or expressed."""
    source, file, vocabulary = HFFolder(hf), str(hf / CONFIG), {"_target_": VOCABULARY, "path": str(hf)}
    if is_own(source.config):
        return _read_own(source, file, vocabulary, context)
    family, tokenizer_of = family_for(source.config, file), partial(load_hf_tokenizer, hf, key="hf")
    return _read(source, family, file, vocabulary, tokenizer_of, context, {"format": "hf"})


def _read_own(source: HFFolder, file: str, vocabulary: Node, context: int | None) -> Imported:
    """The model of a folder that attnlab wrote for a variant of its own; its code is not looked at."""
    config, n_vocab = own_config(source.config, file, vocabulary)
    if context is not None:
        raise UsageError(f"context ({context}) must be left out: {source} says that of its run")
    if config.model.n_layers > len(source.names):
        raise UsageError(f"{file}: model.n_layers ({config.model.n_layers}) is more than there are tensors")
    model = empty_model(config, n_vocab)
    family, links = own_family(model), own_links(model)
    family.check(links, model, source.names, str(source))
    tokenizer = load_hf_tokenizer(source.path, n_vocab, key="hf")
    weights, dtypes = _weights(source, family, links, model)
    return Imported(config, tokenizer, weights, {"format": "hf", **_origin(source, family, dtypes)})


def read_gguf(gguf: Path, folder: Path, *, context: int | None = None) -> Imported:
    """The model of a GGUF file, checked; `folder` is where the run will be, and its tokenizer with it."""
    source, file, vocabulary = GGUFFile(gguf), str(gguf), {"_target_": OF_RUN, "path": str(folder)}
    tokenizer_of = partial(read_tokenizer, source.tokenizer, source=file)
    return _read(
        source, source.family, file, vocabulary, tokenizer_of, context, {"format": "gguf", "types": source.types}
    )


def read_file_of_torch(
    ckpt: Path, folder: Path, *, tokenizer: Path | None = None, n_heads: int | None = None, context: int | None = None
) -> Imported:
    """The model of such a file, checked; `folder` is where the run will be, and its tokenizer with it."""
    source, file, vocabulary = TorchFile(ckpt, n_heads), f"ckpt ({ckpt})", {"_target_": OF_RUN, "path": str(folder)}
    tokenizer_of = partial(_tokenizer_beside, ckpt, tokenizer)
    return _read(source, source.family, file, vocabulary, tokenizer_of, context, {"format": "torch"})


def _read(
    source: Source,
    family: Family,
    file: str,
    vocabulary: Node,
    tokenizer_of: Callable[[int], Tokenizer],
    context: int | None,
    about: Mapping[str, Any],
) -> Imported:
    """The model of a source in the layout of a family; `tokenizer_of` gives the tokenizer of so many ids."""
    settings = family.settings(source.config, file)
    if len(settings.layers) > len(source.names):
        raise UsageError(f"{file}: {family.n_layers} ({len(settings.layers)}) is more than there are tensors")
    config = config_of(settings, family.model_type, vocabulary, context)
    model = empty_model(config, settings.vocab_size)
    links = family.links(model)
    family.check(links, model, source.names, str(source))
    tokenizer = tokenizer_of(settings.vocab_size)
    weights, dtypes = _weights(source, family, links, model)
    return Imported(config, tokenizer, weights, {**about, **_origin(source, family, dtypes)})


def _tokenizer_beside(ckpt: Path, chosen: Path | None, n_vocab: int) -> Tokenizer:
    meta = chosen or ckpt.parent / META
    if chosen is not None and chosen.is_dir():
        return load_hf_tokenizer(chosen, n_vocab, key="tokenizer")
    tokenizer: Tokenizer = read_meta(meta) if chosen is not None or meta.exists() else gpt2_tokenizer(n_vocab)
    if tokenizer.n_vocab != n_vocab:
        raise UsageError(f"the tokenizer has {tokenizer.n_vocab} ids, and the model {n_vocab}: set tokenizer=FOLDER")
    return tokenizer


def gpt2_tokenizer(n_vocab: int) -> Tokenizer:
    """GPT-2's vocabulary, with ids that stand for nothing up to those of the model: embeddings are often padded."""
    tokenizer = Tiktoken("gpt2").build(Stories().load(), CACHE)
    assert isinstance(tokenizer, RankTokenizer)
    tokens = [*tokenizer.tokens, *[b""] * (n_vocab - tokenizer.n_vocab)]
    return RankTokenizer(tokenizer.name, tokens, pattern=tokenizer.pattern, n_ranks=tokenizer.n_ranks)


def config_of(settings: ModelSettings, name: str, vocabulary: Node, context: int | None) -> RunConfig:
    """The config of a run of these settings, on the stories that come with attnlab."""
    usual, nodes = compose_config(), settings.nodes()
    most = nodes["model"]["context"]
    if context is not None and context > most:
        raise UsageError(f"context ({context}) must be at most {most}, which the model was made for")
    by_table = nodes["position"]["embed"]["_target_"].endswith(".LearnedEmbedding")
    chosen = most if by_table else min(most, USUAL_CONTEXT) if context is None else context
    content = {
        **usual.as_dict(),
        **nodes,
        "model": {**nodes["model"], "context": chosen},
        "experiment_name": name,
        "tokenizer": vocabulary,
    }
    return RunConfig.of(content)


def empty_model(config: RunConfig, vocab_size: int) -> nn.Module:
    """The model of a config without its numbers; refused if a constructor refuses it."""
    try:
        with torch.device("meta"):
            return build_model(config, vocab_size)
    except AttnlabError:
        raise
    except Exception as error:  # sizes that do not go together, or that nothing can count
        raise UsageError(
            f"{CONFIG} gives no model ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        ) from error


def _weights(
    source: Source, family: Family, links: Sequence[Link], model: nn.Module
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The parameters by our names, in float32, and the types that theirs are stored in."""
    weights: dict[str, Tensor] = {}
    dtypes: dict[str, str] = {}
    for link in links:
        names = [family.name_in(name, source.names) for name in link.theirs]
        stored = [source.tensor(name) for name in names]
        dtypes |= {theirs: source.names[name].dtype for theirs, name in zip(link.theirs, names, strict=True)}
        for name, tensor in zip(link.ours, link.transform.ours(stored, link.attention), strict=True):
            weights[name] = _exact(tensor, names[0])
    for name in family.tied_names(model):
        if name in source.names and not torch.equal(_exact(source.tensor(name), name), weights["embedding.weight"]):
            raise UsageError(f"{source}: {name} is not the embedding, though tie_word_embeddings says so")
    return weights, dtypes


def _exact(tensor: Tensor, name: str) -> Tensor:
    """A tensor in float32, in memory of its own; refused if float32 does not hold its numbers."""
    exact = tensor.to(torch.float32).contiguous()
    if tensor.dtype == torch.float64 and not torch.equal(exact.to(torch.float64), tensor):
        raise UsageError(f"{name} holds numbers of float64 that float32 does not")
    return exact.clone() if exact.data_ptr() == tensor.data_ptr() else exact


def _origin(source: Source, family: Family, dtypes: Mapping[str, str]) -> dict[str, Any]:
    """Where a model comes from, as its summary says."""
    usual = max(DTYPES, key=list(dtypes.values()).count)
    return {
        "model_type": family.model_type,
        "folder": str(source.path.absolute()),
        "sha256": source.sha256,
        "dtype": usual,
        "other_dtypes": {name: dtype for name, dtype in dtypes.items() if dtype != usual},
        "config": source.config,
        "generation_config": source.generation,
    }


def _write(folder: RunFolder, model: Imported) -> None:
    """Write all files of a run, its summary last."""
    config, tokenizer = model.config, model.tokenizer
    variant, code = model.origin["model_type"], code_of(config.as_dict(), ("attnlab",))
    content = {"variant": variant, **without_secrets(config.as_dict())}
    folder.write_config(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    folder.write_code(code.described(), None)
    tokenizer.save(folder.tokenizer)
    rows = (",".join(COLUMNS) + "\n").encode()
    write_atomically(folder.metrics, rows, key="folder")
    settings = settings_of(config.as_dict(), besides=("data.*", "tokenizer.*"))
    fingerprint = {key: one_spelling(value) for key, value in settings.items()}
    state = {f"model.{name}": tensor for name, tensor in model.weights.items()}
    if config.model.tie:
        state["model.head.weight"] = state["model.embedding.weight"]
    file = io.BytesIO()
    checkpoint = {
        "state_dict": state,
        "fingerprint": {**fingerprint, "tokenizer.sha256": tokenizer.sha256},
        "global_step": 0,
    }
    torch.save(checkpoint, file)
    digests = {folder.metrics.name: digest(rows)}
    folder.checkpoints.write(folder.checkpoints.file(0).name, 0, file.getvalue(), digests)
    weights = sha256_of("".join(sorted(model.origin["sha256"].values())).encode())
    summary = {
        "status": Status.IMPORTED,
        "variant": variant,
        "hash": weights[:8],
        "code": code.hash,
        "seed": config.seed,
        "step": 0,
        "parameters": sum(tensor.numel() for tensor in model.weights.values()),
        "tokenizer_sha256": tokenizer.sha256,
        "n_vocab": tokenizer.n_vocab,
        "imported": model.origin,
    }
    folder.write_summary(summary, digests)
