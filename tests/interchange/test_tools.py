"""Other tools open what is exported: TransformerLens and nnsight read and replace maps. Skipped without them."""

import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.test_main import typed
from tests.interchange.test_export_run import write
from tests.training.launch import folder_of, write_text

import attnlab
from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.data.tokenizers import ByteTokenizer
from attnlab.interchange.export_run import exported
from attnlab.interchange.lm_eval_task import prefix_id
from attnlab.laws.subject import gap, perturbed
from attnlab.model import GPT
from attnlab.store.run_folder import RunFolder
from attnlab.training.run import run

SIZES = ("model.d_model=32", "model.n_heads=4", "model.n_layers=2", "model.context=64", "model.dropout=0")
REMOTE = ("differential", "hybrid", "gated_delta")  # a memory's map is read and replaced as any other
GROUP = "transformer_lens.architectures"
CLOSE = 1e-5  # float32
pytestmark = pytest.mark.filterwarnings("ignore")  # of the tools themselves, and of what they use


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Exported folders by variant, each with the model that it was made of; code is copied to a folder of its own."""
    home = tmp_path_factory.mktemp("tools")

    def folder_of(case: str) -> tuple[Path, GPT]:
        config = compose_config([*f"attention={case}".split(), *SIZES])
        model = build_model(config, 256).eval()
        perturbed(model)
        folder = home / str(len(list(home.iterdir())))
        return write(folder, exported(RunFolder(home / "none"), config, model, ByteTokenizer(), to="hf")), model

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder_of


def tokens() -> torch.Tensor:
    return torch.randint(256, (2, 11), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def lens(monkeypatch: pytest.MonkeyPatch) -> Any:
    """TransformerLens's bridge, with the entry points that pyproject.toml states."""
    bridge = pytest.importorskip("transformer_lens.model_bridge")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    points = [EntryPoint(name, value, GROUP) for name, value in project["entry-points"][GROUP].items()]
    from attnlab.interchange.lens_adapter import AttnlabAdapter

    assert [point.load() for point in points] == [AttnlabAdapter]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: points)
    monkeypatch.setattr("transformer_lens.factories.architecture_adapter_factory.entry_points", lambda **_: points)
    return bridge.TransformerBridge


@pytest.mark.parametrize("variant", REMOTE)
def test_transformer_lens(variant: str, folders: Any, lens: Any) -> None:
    """`run_with_cache` gives our maps and logits, and a pattern that is patched is what the layer goes on with."""
    (folder, ours), ids = folders(variant), tokens()
    model = lens.boot_transformers(str(folder), trust_remote_code=True, device="cpu", dtype=torch.float32)
    logits, cache = model.run_with_cache(ids)
    assert gap(logits, ours(ids)) <= CLOSE
    for i, layer in enumerate(ours.attention_maps(ids)):
        assert gap(cache[f"blocks.{i}.attn.hook_pattern"], layer.weights) <= CLOSE
    identity = torch.eye(ids.size(1))
    ours.layers[0].attention.map.register_forward_hook(lambda *_: identity.expand_as(_[2]))
    ours.layers[0].attention.eager = True
    patch = [("blocks.0.attn.hook_pattern", lambda pattern, hook: identity.expand_as(pattern))]
    patched = model.run_with_hooks(ids, fwd_hooks=patch)
    assert gap(patched, ours(ids)) <= CLOSE < gap(patched, logits)


def test_transformer_lens_has_its_own(folders: Any, lens: Any) -> None:
    """A run in the layout of Llama's opens by the adapter that TransformerLens has for it."""
    (folder, ours), ids = folders("gqa model.norm=rms model.mlp=swiglu"), tokens()
    model = lens.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
    logits, cache = model.run_with_cache(ids)
    assert gap(logits, ours(ids)) <= CLOSE
    assert gap(cache["blocks.1.attn.hook_pattern"], ours.attention_maps(ids)[1].weights) <= CLOSE


@pytest.mark.parametrize("variant", REMOTE)
def test_nnsight(variant: str, folders: Any) -> None:
    """A trace reads what enters a layer, its map and what leaves it, and replaces the map."""
    nnsight = pytest.importorskip("nnsight")
    (folder, ours), ids = folders(variant), tokens()
    model = nnsight.LanguageModel(str(folder), trust_remote_code=True, attn_implementation="eager", dispatch=True)
    layer = model.model.blocks[1].attention
    with model.trace(ids):
        entrance = layer.input.save()
        pattern = layer.map.output.save()
        exit_ = layer.output.save()
        logits = model.output.logits.save()
    mixer = ours.layers[1].attention
    assert gap(logits, ours(ids)) <= CLOSE and gap(exit_, mixer(entrance)) <= CLOSE
    assert gap(pattern, mixer.weights(entrance)) <= CLOSE
    with model.trace(ids):
        layer.map.output = 0 * layer.map.output
        moved = model.output.logits.save()
    mixer.map.register_forward_hook(lambda _, __, weights: 0 * weights)
    mixer.eager = True
    assert gap(moved, ours(ids)) <= CLOSE < gap(moved, logits)


@pytest.mark.parametrize("words", ["data=recall", "data=file tokenizer=byte"])
def test_lm_eval(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own model `hf`: the log-likelihood of every answer, or last word, is ours; of a task, so is their mean."""
    lm_eval = pytest.importorskip("lm_eval")
    for name, value in {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}.items():
        monkeypatch.setenv(name, value)
    typed_words = [*words.split(), *([f"data.path={write_text(tmp_path)}"] if "file" in words else [])]
    small = (
        "trainer.max_steps=2",
        "maps.steps=0",
        "sample.steps=0",
        "model.d_model=32",
        "model.n_layers=1",
        "batch_size=4",
    )
    paths = (f"paths.runs={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}")
    config = compose_config(["attention=gated_delta", *SIZES, *small, *typed_words, *paths])
    run(config, variant="gated_delta")
    home = folder_of(tmp_path, "gated_delta")
    assert typed("export", f"run={home}", f"folder={tmp_path / 'model'}") == 0
    assert typed("export", f"run={home}", "to=lm_eval", f"folder={tmp_path / 'task'}") == 0
    ours, tokenizer = attnlab.load(home)
    settings = {
        "pretrained": str(tmp_path / "model"),
        "trust_remote_code": True,
        "prefix_token_id": prefix_id(tokenizer),
    }
    task = [str(tmp_path / "task" / "task.yaml")]
    results = lm_eval.simple_evaluate("hf", settings, task, device="cpu", batch_size=8, limit=40, bootstrap_iters=0)
    (samples,) = results["samples"].values()
    assert samples
    for sample in samples:
        before = tokenizer.encode(sample["doc"]["context"])
        whole = tokenizer.encode(f"{sample['doc']['context']} {sample['doc']['answer']}")
        with torch.no_grad():
            scores = ours(torch.tensor([whole[:-1]])).log_softmax(dim=-1)[0, len(before) - 1 :]
        expected = float(scores.gather(1, torch.tensor(whole[len(before) :])[:, None]).sum())
        assert sample["filtered_resps"][0][0] == pytest.approx(expected, abs=1e-4)
