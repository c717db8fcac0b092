"""What one accelerator does in eight minutes: python bench/gpu.py [--device cuda] [--seconds 480] [--json gpu.json]

Four parts, each with a share of the seconds; what did not fit is printed, and stands in the JSON, too:

training   GPT-2's shape at 124M parameters under Trainer.fit, compiled and not: tokens/s, and the share of the device's
           peak (MFU) by matrix products that were counted, forward and twice that backward
layers     one layer of each family, forward and backward, at T = 2048, 8192 and 32768, by torch and by the kernels that
           serve it: milliseconds, ratio to softmax attention by torch's fused kernel, peak memory
laws       each layer in bfloat16 and float16 against float64 of its own code: outputs and gradients
packed     seeds of one small variant stepped as one batch against one after the other: steps/s, and whether each is its
           single run in float64

With --device cpu everything is small: that tries the script, and measures nothing that means anything.
"""

import argparse
import contextlib
import copy
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.attention.backends import best_backends, use_backends
from attnlab.attention.base import Attention
from attnlab.attention.cost import count_flops
from attnlab.build import attention_factory, build_model, instantiate
from attnlab.config.compose import compose_config
from attnlab.model import GPT
from attnlab.training import run as training
from attnlab.training.hardware import device_name
from attnlab.training.module import LanguageModel
from attnlab.training.optimizer import Recipe
from attnlab.training.packed_seeds import PackedSeeds
from attnlab.training.process_group import ProcessGroup
from attnlab.training.recorders.recorder import Recorders
from attnlab.training.stop import StopRequest

PEAKS = {"B200": 2250, "H200": 989, "H100": 989, "L40S": 362, "A100": 312, "4090": 165}  # TFLOP/s, bfloat16, dense
SHARES = {"training": 0.3, "layers": 0.4, "laws": 0.15, "packed": 0.15}
LAYERS = (
    ("multi_head",),
    ("multi_head", "position=alibi"),
    ("sliding_window", "attention.mask.window=256"),
    ("softcap",),
    ("sink",),
    ("fox", "position=none"),
    ("linear",),
    ("retention",),
    ("mamba2",),
    ("gla",),
    ("delta_net",),
    ("gated_delta",),
    ("kda",),
    ("rwkv7", "position=none"),
    ("log_linear",),
    ("ttt",),
)
GPT2 = {"n_layers": 12, "n_heads": 12, "d_model": 768, "context": 1024}
TINY = {"n_layers": 1, "n_heads": 2, "d_model": 32, "context": 32}
NEVER = 10**9
Row = dict[str, Any]


class Bench:
    """A device, its sizes, and a clock for each part."""

    def __init__(self, device: str, seconds: float, file: Path, about: Row) -> None:
        self.device, self.seconds, self.small = device, seconds, device == "cpu"
        self.file, self.about = file, about
        self.rows: dict[str, list[Row]] = {part: [] for part in SHARES}
        self.left_out: dict[str, list[str]] = {part: [] for part in SHARES}

    def each(self, part: str, cases: Sequence[tuple[str, Callable[[], Row]]]) -> None:
        """Run the cases of a part until its seconds are over; name those that are left, and those that fail."""
        print(f"\n{part}", flush=True)
        end = time.perf_counter() + SHARES[part] * self.seconds
        for name, case in cases:
            if time.perf_counter() > end:
                self.left_out[part].append(f"{name}: no time left")
                continue
            try:
                row = case()
            except Exception as error:  # memory that is not there, a kernel that fails: results, too
                self.left_out[part].append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:160]}")
                continue
            finally:
                if self.device == "cuda":
                    torch.cuda.empty_cache()
            self.rows[part].append({"case": name, **row})
            self.write()
            print(f"  {name:44s} " + "  ".join(f"{key} {shown(value)}" for key, value in row.items()), flush=True)
        for line in self.left_out[part]:
            print(f"  left out: {line}")
        self.write()

    def write(self) -> None:
        """What there is so far: a device may be taken away in the middle of a case."""
        content = {**self.about, "rows": self.rows, "left_out": self.left_out}
        self.file.write_text(json.dumps(content, indent=2) + "\n")

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def time(self, act: Callable[[], Any], seconds: float) -> float:
        """The least milliseconds of an act, after two that allocate and compile."""
        best, end = float("inf"), None
        for turn in range(1000):
            self.wait()
            started = time.perf_counter()
            act()
            self.wait()
            if turn < 2:
                continue
            end = end or started + seconds
            best = min(best, time.perf_counter() - started)
            if time.perf_counter() > end:
                break
        return best * 1e3


def shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


# Training


class Timed(L.Callback):
    """Times steps after the first few, and ends the fit when its seconds are over."""

    def __init__(self, bench: Bench, seconds: float) -> None:
        self.bench, self.seconds, self.took, self.since, self.end = bench, seconds, list[float](), 0.0, float("inf")

    def on_train_batch_start(self, trainer: L.Trainer, *rest: Any) -> None:
        self.bench.wait()
        now = time.perf_counter()
        if trainer.global_step == 3:
            self.end = now + self.seconds
        if trainer.global_step > 3:
            self.took.append(now - self.since)
        self.since = now
        trainer.should_stop = now > self.end


def fit(bench: Bench, compiled: bool, folder: Path, peak: float | None) -> Row:
    sizes, batch, vocabulary = (TINY, 2, 97) if bench.small else (GPT2, 16, 50257)
    words = [f"model.{key}={value}" for key, value in sizes.items()]
    words += ["model.mlp=gelu", "model.dropout=0.0", f"batch_size={batch}", "trainer.precision=bf16", "logger=[]"]
    words += [f"trainer.accelerator={'cpu' if bench.small else 'gpu'}", f"trainer.compile={str(compiled).lower()}"]
    words += [f"trainer.{key}={NEVER}" for key in ("max_steps", "val_every", "checkpoint_every")]
    words += [f"paths.runs={folder}/runs", f"paths.cache={folder}/cache", "maps.steps=0", "sample.steps=0"]
    prepared = training.prepare(compose_config(words), "multi_head")
    ids = np.random.default_rng(0).integers(vocabulary, size=2**20).astype(prepared.splits.train.dtype)  # type: ignore[attr-defined]
    val = ids[: batch * sizes["context"] + 1]  # one batch: Lightning validates where a callback ends a fit
    splits = dataclasses.replace(prepared.splits, train=ids, val=val, n_vocab=vocabulary)  # type: ignore[type-var]
    config, model = prepared.config, build_model(prepared.config, vocabulary)
    use_backends(model, config.trainer.attention_backend, prepared.machine.precision)
    module = LanguageModel(
        model, prepared.recipe, noise_seed=0, log_every=100, val_scored_bytes=None, compile=bool(config.trainer.compile)
    )
    data = training.TextDataModule(splits, seed=0, batch_size=batch, context=config.model.context)
    prepared.folder.path.mkdir(parents=True, exist_ok=True)
    timed = Timed(bench, SHARES["training"] * bench.seconds / 4)
    trainer = training.make_trainer(prepared, StopRequest(), Recorders([]), [timed], ProcessGroup())
    with contextlib.suppress(SystemExit):
        trainer.fit(module, datamodule=data)
    seconds = sorted(timed.took)[len(timed.took) // 2]
    with torch.device("meta"):
        skeleton = build_model(config, vocabulary).eval()
        flops = count_flops(lambda: skeleton(torch.zeros(1, config.model.context, dtype=torch.long)))
    tokens = batch * config.model.context
    mfu = None if peak is None else 3 * flops * batch / seconds / (peak * 1e12)
    return {"parameters": model.n_parameters, "tokens/s": tokens / seconds, "ms": seconds * 1e3, "MFU": mfu}


# Layers


def layer_of(name: str, words: Sequence[str], bench: Bench, t: int) -> Attention:
    width, heads = (32, 2) if bench.small else (768, 12)
    sizes = [f"model.n_heads={heads}", f"model.d_model={width}", "model.dropout=0.0"]
    config = compose_config([f"attention={name}", *sizes, f"model.context={t}", *words])
    torch.manual_seed(0)
    return attention_factory(config)(width, layer=0, n_layers=2, context=t).to(bench.device)


def layer_row(bench: Bench, name: str, words: Sequence[str], t: int, backend: str, base: dict[int, float]) -> Row:
    layer = layer_of(name, words, bench, t)
    if backend != "torch":
        use_backends(layer, backend, "bf16")
    x = torch.randn(max(1, (64 if bench.small else 32768) // t), t, layer.d_model, device=bench.device)
    x.requires_grad_()

    def act() -> None:
        with torch.autocast(bench.device, torch.bfloat16):
            y = layer(x)
        torch.autograd.grad(
            y.float().sum(), [x, *(p for p in layer.parameters() if p.requires_grad)], allow_unused=True
        )

    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    took = bench.time(act, 0.02 if bench.small else 0.2)
    memory = torch.cuda.max_memory_allocated() / 2**20 if bench.device == "cuda" else None
    if (name, *words) == LAYERS[0] and backend == "torch":
        base[t] = took
    return {"ms": took, "times SDPA's layer": took / base[t] if t in base else None, "peak MiB": memory}


def backends_of(bench: Bench) -> list[str]:
    return best_backends(bench.device).split("+")[::-1]  # torch first


def layers(bench: Bench) -> Iterator[tuple[str, Callable[[], Row]]]:
    base: dict[int, float] = {}
    for t in (16, 32, 64) if bench.small else (2048, 8192, 32768):
        for name, *words in LAYERS:
            for backend in backends_of(bench):
                title = f"{' '.join([name, *words])} T={t} {backend}"
                yield title, lambda n=name, w=words, t=t, b=backend: layer_row(bench, n, w, t, b, base)  # type: ignore[misc]


# Laws


def law_row(bench: Bench, name: str, words: Sequence[str], dtype: torch.dtype, backend: str) -> Row:
    """The kernel may be three times as far from float64 as torch's own operations are in the same type, and 2^-7."""
    t = 67 if bench.small else 515
    layer = layer_of(name, words, bench, t)
    served = copy.deepcopy(layer)
    if backend != "torch":
        use_backends(served, backend, "bf16")
    x = torch.randn(2, t, layer.d_model, device=bench.device)
    exact = results(copy.deepcopy(layer).double(), x.double(), None)
    usual, own = (distance(results(side, x, dtype), exact) for side in (layer, served))
    return {"off": own, "torch off": usual, "kept": own <= 3 * usual + 2**-7}


def distance(some: list[Tensor], exact: list[Tensor]) -> float:
    """The largest error, in parts of the largest number."""
    pairs = zip(some, exact, strict=True)
    return max(float((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-6)) for a, b in pairs)


def results(layer: Attention, x: Tensor, dtype: torch.dtype | None) -> list[Tensor]:
    """The outputs, and the gradient of the input."""
    x = x.clone().requires_grad_()
    with torch.autocast(x.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        y = layer(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), [x])]


def laws(bench: Bench) -> Iterator[tuple[str, Callable[[], Row]]]:
    for dtype in (torch.bfloat16, torch.float16):
        for name, *words in LAYERS:
            for backend in backends_of(bench):
                title = f"{' '.join([name, *words])} {str(dtype).rpartition('.')[2]} {backend}"
                yield title, lambda n=name, w=words, d=dtype, b=backend: law_row(bench, n, w, d, b)  # type: ignore[misc]


# Packed seeds


def models_of(bench: Bench, name: str, seeds: int, dtype: torch.dtype, tiny: bool) -> tuple[list[GPT], Recipe, int]:
    width, depth, context = (16, 1, 8) if tiny or bench.small else (128, 4, 128)
    words = [f"model.d_model={width}", f"model.n_layers={depth}", f"model.context={context}", "model.dropout=0.0"]
    configs = [compose_config([f"attention={name}", *words, f"seed={seed}"]) for seed in range(seeds)]
    recipe: Recipe = instantiate(configs[0], "optimizer", Recipe)
    return [build_model(config, 97).to(bench.device, dtype) for config in configs], recipe, context


def packed_row(bench: Bench, name: str, seeds: int) -> Row:
    models, recipe, context = models_of(bench, name, seeds, torch.float32, tiny=False)
    ids = torch.randint(97, (seeds, 4 if bench.small else 16, context + 1), device=bench.device)
    packed = PackedSeeds(models, recipe, NEVER)
    together = bench.time(lambda: packed.step(ids[..., :-1], ids[..., 1:]), 0.1 if bench.small else 2.0)
    optimizer = recipe.optimizer(models[0])
    alone = bench.time(lambda: single_step(models[0], optimizer, recipe, ids[0]), 0.1 if bench.small else 2.0)
    return {
        "seeds": seeds,
        "ms a step": together,
        "times one after the other": seeds * alone / together,
        "off in float64": off_in_float64(bench, name),
    }


def single_step(model: GPT, optimizer: torch.optim.Optimizer, recipe: Recipe, ids: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip or float("inf"))
    optimizer.step()


def off_in_float64(bench: Bench, name: str, steps: int = 20) -> float:
    """How far the weights of the first of two packed seeds are from those of its single run."""
    models, recipe, context = models_of(bench, name, 2, torch.float64, tiny=True)
    constant = copy.copy(recipe)
    constant.warmup_fraction, constant.decay = 0.0, "constant"
    packed, optimizer = PackedSeeds(models, constant, steps), constant.optimizer(models[0])
    for step in range(steps):
        ids = torch.randint(97, (2, 3, context + 1), generator=torch.Generator().manual_seed(step)).to(bench.device)
        packed.step(ids[..., :-1], ids[..., 1:])
        single_step(models[0], optimizer, constant, ids[0])
    return max(float((packed.parameters[n][0] - p).detach().abs().max()) for n, p in models[0].named_parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=480.0, help="for all parts together")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device in bfloat16, if it is not known here")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="where the numbers go")
    parser.add_argument("--parts", nargs="+", choices=tuple(SHARES), default=list(SHARES))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("this machine has no CUDA device; --device cpu tries the script at small sizes")
    training.quiet()
    name = device_name(options.device)
    peak = options.peak or next((float(peak) for key, peak in PEAKS.items() if key in name), None)
    print(f"{name}, torch {torch.__version__}, backends {best_backends(options.device)}, peak {peak} TFLOP/s")
    about = {"device": name, "torch": torch.__version__, "peak": peak}
    bench = Bench(options.device, options.seconds, options.json, about)
    with tempfile.TemporaryDirectory() as folder:
        names = ("multi_head", "gqa", "linear", "gated_delta")
        cases: dict[str, list[tuple[str, Callable[[], Row]]]] = {
            "training": [
                (f"124M, bf16, compile={c}", lambda c=c: fit(bench, c, Path(folder), peak))  # type: ignore[misc]
                for c in ((False,) if bench.small else (False, True))
            ],
            "layers": list(layers(bench)),
            "laws": list(laws(bench)),
            "packed": [
                (f"{n} {s} seeds", lambda n=n, s=s: packed_row(bench, n, s))  # type: ignore[misc]
                for n in names
                for s in ((3,) if bench.small else (8, 32))
            ],
        }
        for part in options.parts:
            bench.each(part, cases[part])
    print(f"\n{options.json}")


if __name__ == "__main__":
    main()
