"""TensorBoard's event files: a view of metrics.csv, and the home of pictures, texts and maps.

TensorBoard sorts by name, so losses keep theirs and what else a run measures stands below vitals/, after them; the
numbers of heads are records of the Attention tab.
"""

import math
import os
import socket
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard._proto_graph import node_proto
from torch.utils.tensorboard.summary import custom_scalars, hparams, text

from attnlab.attention.evaluating import evaluating
from attnlab.inspection.head_metrics import of_heads
from attnlab.inspection.records import Record, heads_summary, image_summary, record_summary
from attnlab.model import GPT
from attnlab.store.files import named
from attnlab.store.names import EVENTS
from attnlab.store.run_folder import RunFolder
from attnlab.training.description import cost_table, to_yaml
from attnlab.training.recorders.recorder import Recorder, as_code

GRAPH_TOKENS = 8
LOSS, BEST_LOSS = "val/loss", "best/val_loss"
SPEED = "train/tokens_per_second"  # beside the losses: among the first five metrics, which the hparams tab shows
# What the custom scalars tab opens with.
LAYOUT: dict[str, dict[str, list[Any]]] = {
    "loss": {
        "loss": ["Multiline", ["train/loss", LOSS]],
        "bits per byte": ["Multiline", ["val/bits_per_byte"]],
    },
    "speed and optimizer": {
        "tokens per second": ["Multiline", [SPEED]],
        "learning rate": ["Multiline", ["vitals/optim/lr"]],
        "gradient norm": ["Multiline", ["vitals/optim/grad_norm"]],
    },
}


class EventFile:
    """An event file that is on the disk when `add` returns, which raises what goes wrong.

    TensorBoard's own writes from a thread, whose errors end in a traceback of that thread.
    """

    def __init__(self, folder: Path, suffix: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Files are read in the order of the seconds in their names.
        taken = [name[:10] for path in folder.glob(f"{EVENTS}*") if (name := path.name[len(EVENTS) :])[:10].isdecimal()]
        second = max([int(time.time()), *(int(digits) + 1 for digits in taken)])
        self.path = folder / f"{EVENTS}{second:010d}.{socket.gethostname()}.{os.getpid()}.0{suffix}"
        self._file = self.path.open("xb")
        self._records = RecordWriter(self._file)
        self.add(Event(file_version="brain.Event:2"))

    def add(self, event: Event) -> None:
        """Write one event, as of now."""
        event.wall_time = time.time()
        with named(self.path):
            self._records.write(event.SerializeToString())
            self._file.flush()

    def close(self) -> None:
        with named(self.path):
            self._file.close()


class TensorBoardRecorder(Recorder):
    """One event file per part of a run, made at the first use and open to the end, and no other files.

    `resume_at` is the step a resumed run goes on from; a TensorBoard that is running then forgets what came after it.
    With `suffix` the file is one beside those of the run: its name ends so, and it takes the place of earlier ones.
    """

    def __init__(self, folder: os.PathLike[str] | str, *, resume_at: int | None, suffix: str = "") -> None:
        self.folder, self.suffix = Path(folder), suffix
        self._purge = None if resume_at is None else resume_at + 1
        self._file: EventFile | None = None
        self._best: float | None = None

    def scalars(self, numbers: Mapping[str, float], step: int) -> None:
        """All numbers of a step in one event, and with the loss the best so far; those of heads in another."""
        heads: dict[str, dict[str, float]] = {}
        shown = {}
        for tag, number in numbers.items():
            metric, _, name = tag.rpartition("/")
            if of_heads(tag):
                heads.setdefault(metric, {})[name] = float(number)
            else:
                shown[shown_as(tag)] = float(number)
        if LOSS in numbers and math.isfinite(numbers[LOSS]):
            shown[BEST_LOSS] = self._best_loss(float(numbers[LOSS]))
        if shown:
            self._add(Summary(value=[Summary.Value(tag=tag, simple_value=n) for tag, n in shown.items()]), step)
        if heads:
            self._add(heads_summary(heads), step)

    def _best_loss(self, loss: float) -> float:
        if self._best is None:
            rows = [] if self._purge is None else RunFolder(self.folder).read_metrics()
            self._best = min((row.value for row in rows if row.metric == LOSS), default=math.inf)
        self._best = min(self._best, loss)
        return self._best

    def text(self, tag: str, markdown: str, step: int) -> None:
        self._add(text(tag, markdown), step)

    def image(self, tag: str, png: bytes, step: int) -> None:
        self._add(image_summary(tag, png), step)

    def map(self, record: Record) -> None:
        self._add(record_summary(record), record.step)

    def digests(self) -> dict[str, dict[str, Any]]:
        """The event files of all parts, by their sizes."""
        return {path.name: {"size": path.stat().st_size} for path in RunFolder(self.folder).event_files()}

    def close(self, status: str = "success") -> None:
        if self._file is not None:
            self._file.close()

    def show_settings(self, config: Mapping[str, Any], model: GPT, hyper: Mapping[str, Any]) -> None:
        """Put the config and the cost table into the text tab, and the run into the hparams tab.

        The hparams tab shows the latest value of the first five scalars. It puts settings in which runs differ first if
        it compares them itself, which it does where no run says which settings and metrics there are.
        """
        self.text("config", as_code(to_yaml(config)), 0)
        self._add(custom_scalars(LAYOUT), 0)
        self.show_graph(model)
        self.text("cost", cost_table(model, model.context), 0)
        _, start, end = hparams(dict(hyper), {})
        self._add(start, 0)
        self._add(end, 0)

    def show_graph(self, model: GPT) -> None:
        """Put the model into the graphs tab, where torch can trace it; the text tab says why if it cannot."""
        ids = torch.zeros(1, min(model.context, GRAPH_TOKENS), dtype=torch.long, device=next(model.parameters()).device)
        with warnings.catch_warnings(), evaluating(model), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # what the tracer says of sizes that become constants is true and no matter
            try:
                with torch.no_grad():
                    model(ids)  # what is kept from pass to pass is made now: the tracer compares two passes
                nodes = graph(model, ids)
            except Exception as error:  # whatever a variant does that the tracer does not know: a picture stops no run
                reason = str(error).strip().splitlines()[0]
                self.text("graph", as_code(f"torch cannot trace this model: {reason}"), 0)
            else:
                self._open().add(Event(graph_def=nodes.SerializeToString()))

    def _add(self, summary: Summary, step: int) -> None:
        self._open().add(Event(step=step, summary=summary))

    def _open(self) -> EventFile:
        if self._file is None:
            for earlier in self.folder.glob(f"{EVENTS}*{self.suffix}") if self.suffix else ():
                earlier.unlink()
            self._file = EventFile(self.folder, self.suffix)
            if self._purge is not None:
                self._file.add(Event(step=self._purge, session_log=SessionLog(status=SessionLog.START)))
        return self._file


def shown_as(tag: str) -> str:
    """The name by which TensorBoard shows a number that metrics.csv holds."""
    if tag == "perf/tokens_per_second":
        return SPEED
    return tag if tag.startswith(("train/", "val")) else f"vitals/{tag}"


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
