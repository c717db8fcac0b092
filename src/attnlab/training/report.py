"""A run in words and tables: what TensorBoard's text and hparams tabs show, and summary.json."""

import platform
import shlex
import sys
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Int64
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.graph_pb2 import GraphDef
from torch import Tensor
from torch.utils.tensorboard._proto_graph import node_proto
from torch.utils.tensorboard.summary import custom_scalars, hparams

from attnlab.attention.base import evaluating
from attnlab.attention.cost import Cost
from attnlab.code import repository
from attnlab.inspection.metrics import DIVERSITY, PER_HEAD
from attnlab.model import GPT
from attnlab.training.callbacks import as_code
from attnlab.typed import typed

PACKAGES = ("attnlab", "torch", "lightning", "hydra-core", "tiktoken", "tensorboard", "numpy")
GRAPH_TOKENS = 8
FINAL_METRICS = ("val/loss", "val/bits_per_byte", "train/loss")


def cost_table(model: GPT, seq_len: int) -> str:
    """What the attention of each layer costs, as a Markdown table; layers that cost the same share a row."""
    rows: list[tuple[str, list[int], Cost]] = []
    mixers = [block.attention for block in model.layers]
    for i, mixer in enumerate(mixers):
        name, cost = type(mixer).__name__, mixer.cost(seq_len, mixers[:i])
        if rows and rows[-1][0] == name and rows[-1][2] == cost:
            rows[-1][1].append(i)
        else:
            rows.append((name, [i], cost))
    lines = [
        f"Attention, per layer, at {seq_len} tokens. FLOPs are those of matrix products, 2 per multiply-add, forward "
        "only, batch of one; pairs are those that one head may read.",
        "",
        "| layers | attention | parameters | forward FLOPs | decode FLOPs per token | state bytes | pairs |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, layers, cost in rows:
        span = f"{layers[0]}" if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"
        numbers = (cost.params, cost.forward_flops, cost.decode_flops, cost.state_bytes, cost.pairs)
        lines.append(f"| {span} | {name} | " + " | ".join("none" if n is None else f"{n:,}" for n in numbers) + " |")
    return "\n".join([*lines, "", f"The whole model has {model.n_parameters:,} parameters."])


def to_yaml(config: Mapping[str, Any]) -> str:
    """A config as YAML text, in its own order."""
    text: str = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    return text


def show_settings(logger: TensorBoardLogger, config: Mapping[str, Any], model: GPT, hyper: Mapping[str, Any]) -> None:
    """Put the config and the cost table into the text tab, and the run into the hparams tab.

    The hparams tab reads the latest value of each metric by its tag, so it shows the final one as soon as there is one.
    """
    logger.experiment.add_text("config", as_code(to_yaml(config)), 0)
    logger.experiment.file_writer.add_summary(custom_scalars(layout(len(model.layers))))
    show_graph(logger, model)
    logger.experiment.add_text("cost", cost_table(model, config["model"]["context"]), 0)
    for summary in hparams(dict(hyper), dict.fromkeys(FINAL_METRICS, 0.0)):
        logger.experiment.file_writer.add_summary(summary, 0)


def layout(n_layers: int) -> dict[str, dict[str, list[Any]]]:
    """What TensorBoard's custom scalars tab opens with: the losses, the speed, and the heads of each layer together."""
    lines = {
        "loss": {
            "loss": ["Multiline", ["train/loss", "val/loss"]],
            "bits per byte": ["Multiline", ["val/bits_per_byte"]],
        },
        "speed and optimizer": {
            "tokens per second": ["Multiline", ["perf/tokens_per_second"]],
            "learning rate": ["Multiline", ["optim/lr"]],
            "gradient norm": ["Multiline", ["optim/grad_norm"]],
        },
    }
    for layer in range(n_layers):
        charts = {
            name.removeprefix("attention_").replace("_", " "): ["Multiline", [f"{name}/L{layer:02d}H"]]
            for name in PER_HEAD
        }
        lines[f"heads of layer {layer}"] = {**charts, "diversity": ["Multiline", [f"{DIVERSITY}/L{layer:02d}"]]}
    return lines


def show_graph(logger: TensorBoardLogger, model: GPT) -> None:
    """Put the model into the graphs tab, where torch can trace it; the text tab says why if it cannot."""
    ids = torch.zeros(1, min(model.context, GRAPH_TOKENS), dtype=torch.long, device=next(model.parameters()).device)
    with warnings.catch_warnings(), evaluating(model), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # what the tracer says of sizes that become constants is true and no matter
        try:
            with torch.no_grad():
                model(ids)  # what is kept from pass to pass is made now: the tracer compares two passes
            logger.experiment.file_writer.add_onnx_graph(graph(model, ids))
        except Exception as error:  # whatever a variant does that the tracer does not know: a picture stops no run
            reason = str(error).strip().splitlines()[0]
            logger.experiment.add_text("graph", as_code(f"torch cannot trace this model: {reason}"), 0)


def graph(model: torch.nn.Module, ids: Int64[Tensor, "b t"]) -> GraphDef:
    """What a model computes, as nodes for TensorBoard, each below the modules it belongs to.

    Traced by way of the exporter: torch.jit.trace, which torch's own graph() calls, keeps a part of every model it has
    seen for as long as the process lives, some ten MiB a run.
    """
    modules = dict(model.named_modules())

    def below(name: str) -> str:
        """Layers and parts that contain a module, as a path of TensorBoard's."""
        parts = name.split(".") if name else []
        inner = [f"{type(modules['.'.join(parts[: i + 1])]).__name__}[{part}]" for i, part in enumerate(parts)]
        return "/".join([type(model).__name__, *inner])

    tracer = torch.jit._trace
    tracer._trace_module_map = {module: f"__module.{name}" for name, module in modules.items()}
    try:
        nodes, _ = torch.jit._get_trace_graph(model, (ids,))
    finally:
        tracer._trace_module_map = None
    paths, protos = {}, []
    for value, name in zip(nodes.inputs(), ("ids", *tracer._unique_state_dict(model)), strict=True):
        module, _, weight = name.rpartition(".")
        paths[value.debugName()] = "input/ids" if name == "ids" else f"{below(module)}/{weight}"
        if value.uses():
            protos.append(node_proto(paths[value.debugName()], "input" if name == "ids" else "parameter"))
    for node in nodes.nodes():
        home = below(node.scopeName().rpartition("/")[2].removeprefix("__module").removeprefix("."))
        inputs = [paths[value.debugName()] for value in node.inputs()]
        for value in node.outputs():
            paths[value.debugName()] = f"{home}/{value.debugName()}"
            size = value.type().sizes() if value.isCompleteTensor() else None
            protos.append(node_proto(paths[value.debugName()], node.kind(), inputs, outputsize=size))
    protos += [node_proto("output/logits", "output", [paths[value.debugName()] for value in nodes.outputs()])]
    return GraphDef(node=protos)


def environment() -> dict[str, Any]:
    """Versions, and the commit of the code where it is a git checkout."""
    found = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    commit, dirty = repository(Path(__file__).parent)
    return {
        "versions": found,
        "git_commit": commit,
        "git_dirty": dirty,
        "platform": platform.platform(),
        "command": shlex.join(sys.argv),
        "typed": typed(),
    }
