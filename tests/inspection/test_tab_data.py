"""What the tab is given: the stored numbers bit for bit, whatever else lies in the folder."""

import json
import re
import shlex
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.base_plugin import TBContext
from tests.inspection.tab_server import TOKENS, record, weights_of, write_run
from torch.utils.tensorboard import SummaryWriter
from werkzeug.test import Client

from attnlab.inspection.head_metrics import EMERGENCE_THRESHOLD, attention_entropy, diversity, first_token_mass, shares
from attnlab.inspection.records import Record, encode, half, heads_summary, record_summary
from attnlab.inspection.tab.head_pairs import overlaps, pair_heads
from attnlab.inspection.tab.plugin import AttentionTab
from attnlab.inspection.tab.run_facts import MOST_SETTINGS
from attnlab.inspection.tab.scripts import IMPORT, joined
from attnlab.inspection.tab.series import DamagedRecord, checked, shrink
from attnlab.store.run_folder import RunFolder


class Reply(NamedTuple):
    code: int
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def map(self) -> tuple[dict[str, Any], np.ndarray]:
        """The header and the numbers, read as the browser reads them."""
        (length,) = struct.unpack("<I", self.content[:4])
        header = json.loads(self.content[4 : 4 + length])
        return header, np.frombuffer(zlib.decompress(self.content[4 + length :]), dtype="<f2")


class Tab:
    """The plugin over a folder, without a server."""

    def __init__(self, folder: Path, samples: dict[str, int] | None = None) -> None:
        self.multiplexer = EventMultiplexer(tensor_size_guidance={"attention": 0})
        self.provider = MultiplexerDataProvider(self.multiplexer, str(folder))
        self.folder = folder
        self.reload()
        flags = SimpleNamespace(samples_per_plugin=samples or {})
        self.apps = AttentionTab(
            TBContext(data_provider=self.provider, flags=flags, logdir=str(folder))
        ).get_plugin_apps()

    def reload(self) -> None:
        self.multiplexer.AddRunsFromDirectory(str(self.folder))
        self.multiplexer.Reload()

    def get(self, route: str, **settings: Any) -> Reply:
        app = self.apps.get(route) or self.apps["/static/*"]
        reply = Client(app).get(route, query_string=settings)
        return Reply(reply.status_code, reply.get_data())

    def map(self, step: int, layer: int = 0, run: str = "a", sentence: str = "probe", **more: Any) -> Reply:
        return self.get("/map", run=run, sentence=sentence, layer=layer, step=step, **more)


def test_a_map_arrives_bit_for_bit(tmp_path: Path) -> None:
    written = [record(step, layer, kind=kind) for step in (0, 5, 40) for layer, kind in enumerate(("signed", "none"))]
    written = [one if one.kind == "signed" else one._replace(kind="probability") for one in written]
    write_run(tmp_path / "a", written)
    tab = Tab(tmp_path)
    for one in written:
        header, numbers = tab.map(one.step, one.layer).map
        lower = one.weights[:, *np.tril_indices(len(TOKENS))]
        assert one.value_norm is not None
        expected = np.concatenate([lower.ravel(), one.value_norm.ravel()])
        assert numbers.view(np.uint16).tolist() == expected.view(np.uint16).tolist()
        assert header["tokens"] == TOKENS and header["kind"] == one.kind and header["step"] == one.step
        assert header["pooled"] == 1 and header["n_tokens"] == len(TOKENS)


def test_numbers_of_a_map(tmp_path: Path) -> None:
    """The numbers beside a map are those of the formulas."""
    one = record(3, 1, kind="signed", heads=3)
    write_run(tmp_path / "a", [one])
    tab = Tab(tmp_path)
    said = tab.get("/numbers", run="a", sentence="probe", layer=1, step=3).json
    w = shares(one.weights.astype(np.float32), "signed")
    assert said["heads"]["attention_entropy"] == pytest.approx(attention_entropy(w))
    assert said["heads"]["attention_first_token_mass"] == pytest.approx(first_token_mass(w))
    assert said["layer"] == {"attention_diversity": pytest.approx(diversity(w))}
    assert tab.map(3, 1).map[0]["metrics"] == list(said["heads"]), "what the browser may ask for"


def test_runs_listed(tmp_path: Path) -> None:
    """Runs are listed with their sentences and layers."""
    write_run(tmp_path / "a", [record(step, layer) for step in (0, 7) for layer in (0, 2)])
    write_run(tmp_path / "deep" / "b", [record(1, 0, sentence="prompt/two")])
    write_run(tmp_path / "other", [], [("loss", 1.0, 0)])
    said = Tab(tmp_path).get("/runs").json
    assert {run: about["sentences"] for run, about in said["runs"].items()} == {
        "a": {"probe": [0, 2]},
        "deep/b": {"prompt/two": [0]},
    }
    assert said["runs"]["a"]["last_step"] == 7 and said["foreign"] == 0


def test_whether_every_step_is_stored(tmp_path: Path) -> None:
    """The tab is told whether every step is kept."""
    write_run(tmp_path / "a", [record(0, 0)])
    assert Tab(tmp_path).get("/runs").json["samples"]["kept"] is None
    said = Tab(tmp_path, {"attention": 1000}).get("/runs").json["samples"]
    assert said == {"kept": 1000, "wanted": "--samples_per_plugin attention=1000"}


def test_tab_settings(tmp_path: Path) -> None:
    """The tab is told how to measure what a head of a run is good for, and when one emerges."""
    for name in ("it's", "foreign"):
        write_run(tmp_path / name, [record(0, 0)])
    (tmp_path / "it's" / "config.yaml").touch()
    said = Tab(tmp_path).get("/runs").json
    assert said["runs"]["foreign"]["ablate"] is None
    program, command, argument = shlex.split(said["runs"]["it's"]["ablate"])
    assert (program, command, argument) == ("attnlab", "ablate_heads", f"run={tmp_path}/it's")
    assert said["ablation"] == {"zero": "head_ablation_zero", "mean": "head_ablation_mean"}
    assert said["emergence"] == {
        "least": EMERGENCE_THRESHOLD,
        "metrics": ["attention_induction", "attention_previous_token"],
    }


def test_the_server_starts_without_torch() -> None:
    program = "import sys, attnlab.inspection.tab.plugin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_list_of_runs_reads_no_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        write_run(tmp_path / name, [record(step, layer) for step in (0, 1) for layer in (0, 1)])
    tab = Tab(tmp_path)
    read: list[tuple[list[str], list[str], int]] = []
    whole = tab.provider.read_tensors

    def spy(ctx: Any, *, run_tag_filter: Any, downsample: int, **rest: Any) -> Any:
        read.append((sorted(run_tag_filter.runs), sorted(run_tag_filter.tags), downsample))
        return whole(ctx, run_tag_filter=run_tag_filter, downsample=downsample, **rest)

    monkeypatch.setattr(tab.provider, "read_tensors", spy)
    tab.get("/runs")
    assert read == []
    tab.map(1, 1, run="b")
    assert read == [(["b"], ["maps/probe/layer_01"], 1)], "the newest map is read alone"
    tab.map(0, 1, run="b")
    tab.map(0, 1, run="b")
    assert len(read) == 2 and read[1][:2] == (["b"], ["maps/probe/layer_01"]), "a series is read once"


def test_a_run_that_goes_on_shows_its_new_steps(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "a")) as writer:
        tab = Tab(tmp_path)
        for step in (0, 1, 5):
            writer.file_writer.add_summary(record_summary(record(step, 0)), step)
            writer.flush()
            tab.reload()
            if step:
                assert tab.get("/steps", run="a", sentence="probe", layer=0).json["steps"][-1] == step
                assert tab.map(step).map[0]["step"] == step
    assert tab.get("/steps", run="a", sentence="probe", layer=0).json == {"steps": [0, 1, 5]}


def test_cut_off_run(tmp_path: Path) -> None:
    """A run that was cut off in the middle of a record is shown up to there."""
    write_run(tmp_path / "a", [record(step, layer) for step in (0, 1) for layer in (0, 1)])
    (events,) = (tmp_path / "a").glob("events.*")
    events.write_bytes(events.read_bytes()[:-40])
    tab = Tab(tmp_path)
    assert tab.get("/steps", run="a", sentence="probe", layer=0).json == {"steps": [0, 1]}
    assert tab.map(1, 0).code == 200 and tab.map(0, 1).code == 200
    missing = tab.map(1, 1)
    assert missing.code == 404 and missing.json == {"error": "TensorBoard holds no map of layer 1 at step 1"}


def test_step_written_twice(tmp_path: Path) -> None:
    """A step that a resumed run wrote twice is one step."""
    write_run(tmp_path / "a", [record(0, 0), record(4, 0)])
    write_run(tmp_path / "a", [record(4, 0), record(9, 0)])
    assert Tab(tmp_path).get("/steps", run="a", sentence="probe", layer=0).json == {"steps": [0, 4, 9]}


def as_summary(parts: tuple[bytes, ...], tag: str = "maps/probe/layer_00") -> Summary:
    summary = record_summary(record(0, 0))
    value = summary.value[0]
    value.tag = tag
    del value.tensor.string_val[:]
    value.tensor.string_val.extend(parts)
    value.tensor.tensor_shape.dim[0].size = len(parts)
    return summary


def changed(key: str, value: Any) -> tuple[bytes, bytes]:
    header, numbers = encode(record(0, 0))
    return json.dumps(json.loads(header) | {key: value}).encode(), numbers


HEADER, NUMBERS = encode(record(0, 0))
BROKEN = {
    "header": ((b"\xff{", NUMBERS), "its header is not JSON"),
    "no header": ((b"[1]", NUMBERS), "it is not in format 1"),
    "format": (changed("format", 9), "it is not in format 1"),
    "parts": ((HEADER,), "it has 1 parts, not 2"),
    "numbers": ((HEADER, NUMBERS[:-9]), "it holds .* bytes of numbers instead of"),
    "rubbish": ((HEADER, b"rubbish"), "its numbers are damaged"),
    "more numbers": ((HEADER, zlib.compress(bytes(10**6))), "it holds .* bytes of numbers instead of"),
    "shape": (changed("shape", [2, 7]), r"its shape is \[2, 7\]"),
    "huge": (changed("shape", [10**9, 7, 7]), "its layout is lower with .* numbers"),
    "tokens": (changed("tokens", ["a"]), "its tokens do not fit its shape"),
    "layout": (changed("layout", "upper"), "its layout is upper"),
    "no text": (
        (json.dumps({k: v for k, v in json.loads(HEADER).items() if k != "text"}).encode(), NUMBERS),
        "lacks text",
    ),
    "kind": (changed("kind", None), "its kind is None"),
    "keys": (changed("keys", ["a"]), "its tokens do not fit its shape"),
    "causal": (changed("causal", 3), "whether it is causal is 3"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_damaged_record(tmp_path: Path, name: str) -> None:
    """A damaged record is named and the others are shown."""
    parts, reason = BROKEN[name]
    with pytest.raises(DamagedRecord, match=reason):
        checked(list(parts))
    with SummaryWriter(str(tmp_path / "a")) as writer:
        writer.file_writer.add_summary(as_summary(parts), 0)
        writer.file_writer.add_summary(record_summary(record(1, 0)), 1)
        writer.file_writer.add_summary(record_summary(record(2, 0)), 2)
    tab = Tab(tmp_path)
    broken = tab.map(0)
    assert broken.code == 422 and broken.json["error"].startswith("this record is damaged: ")
    assert tab.map(1).code == 200


def test_foreign_series(tmp_path: Path) -> None:
    """Series of another program under the same name are counted and left out."""
    with SummaryWriter(str(tmp_path / "a")) as writer:
        writer.file_writer.add_summary(as_summary((b"x",), "attention/sample0"), 0)
        writer.file_writer.add_summary(record_summary(record(0, 0)), 0)
    said = Tab(tmp_path).get("/runs").json
    assert said["foreign"] == 1 and said["runs"]["a"]["sentences"] == {"probe": [0]}


def long_record(tokens: int = 1100) -> Record:
    labels = [f"t{i}" for i in range(tokens)]
    return Record(0, 0, "signed", "probe", "long", labels, half(weights_of(tokens, 1, 0, "signed")), None)


def test_long_map_pooled() -> None:
    """A long map is pooled to the weights furthest from zero and says so."""
    one = long_record()
    shown = shrink(one, 512)
    assert shown.pooled == 3 and shown.tokens == 1100 and shown.record.weights.shape == (1, 367, 367)
    assert shown.record.tokens[1] == "t3…"
    block = one.weights[0, 300:303, 30:33]
    assert shown.record.weights[0, 100, 10] == block.ravel()[np.abs(block).argmax()]


def cross_record(targets: int = 3, sources: int = 7) -> Record:
    """A map of one text that reads another."""
    weights = half(np.random.default_rng(0).uniform(0.1, 1, size=(2, targets, sources)))
    tokens, keys = ([f"{side}{i}" for i in range(n)] for side, n in (("t", targets), ("s", sources)))
    return Record(0, 0, "nonnegative", "cross", "text", tokens, weights, None, keys, False)


def test_cross_map(tmp_path: Path) -> None:
    """A map of one text that reads another arrives whole, without a distance; a long one is pooled on both sides."""
    write_run(tmp_path / "a", [cross_record()])
    tab = Tab(tmp_path)
    header = tab.map(0, sentence="cross").map[0]
    assert header["shape"] == [2, 3, 7] and header["layout"] == "full" and header["causal"] is False
    assert (len(header["tokens"]), len(header["keys"]), header["n_tokens"]) == (3, 7, 7)
    assert "attention_distance" not in header["metrics"] and "attention_entropy" in header["metrics"]
    numbers = tab.get("/numbers", run="a", sentence="cross", layer=0, step=0).json["heads"]
    assert set(numbers) == set(header["metrics"])
    shown = shrink(cross_record(20, 1100), 512).record
    assert (shown.weights.shape, len(shown.tokens), len(shown.keys or [])) == ((2, 7, 367), 7, 367)


def test_a_map_of_512_tokens_is_not_pooled() -> None:
    assert shrink(long_record(512), 512).pooled == 1


def test_curves(tmp_path: Path) -> None:
    """Curves are those of the layer with what they are compared with."""
    scalars = [(f"attention_entropy/L0{i}H0{h}", i + h / 10 + s, s) for i in (0, 1) for h in (0, 1) for s in (0, 9)]
    scalars += [("attention_entropy/uniform_causal", 2.0, 0), ("train/loss", 3.0, 0), ("x/L00H00", float("nan"), 0)]
    write_run(tmp_path / "a", [record(0, 0)], scalars)
    tab = Tab(tmp_path)
    said = tab.get("/curves", run="a", layer=1).json
    assert set(said) == {"attention_entropy"} and set(said["attention_entropy"]) == {
        "L01H00",
        "L01H01",
        "uniform_causal",
    }
    assert said["attention_entropy"]["L01H01"] == [[0, pytest.approx(1.1)], [9, pytest.approx(10.1)]]
    assert set(tab.get("/curves", run="a").json["attention_entropy"]) >= {"L00H00", "L01H01"}
    assert tab.get("/curves", run="nothing", layer=0).json == {}
    (only,) = tab.get("/runs").json["runs"].values()
    assert tab.get("/runs").json["foreign"] == 0 and list(only["sentences"]) == ["probe"]
    with SummaryWriter(str(tmp_path / "b")) as writer:
        writer.file_writer.add_summary(record_summary(record(0, 0)), 0)
        writer.add_scalar("x/L00H00", 1.0, 0)  # as earlier versions wrote them
        for step in (0, 9):
            numbers = {"L00H00": step + 0.1, "L01H00": step + 1.1, "all": 2.0, "L00H01": float("nan")}
            writer.file_writer.add_summary(heads_summary({"x": numbers, "y": {"L00": 1.0}}), step)
    tab.reload()
    assert tab.get("/runs").json["foreign"] == 0
    assert tab.get("/curves", run="b", layer=1).json == {
        "x": {"L01H00": [[0, 1.1], [9, 10.1]], "all": [[0, 2.0], [9, 2.0]]}
    }
    assert tab.get("/curves", run="b").json["x"]["L00H00"] == [[0, 0.1], [9, 9.1]]
    damaged = heads_summary({"x": {}})
    damaged.value[0].tensor.string_val[0] = b"[1]"
    with SummaryWriter(str(tmp_path / "b"), filename_suffix=".later") as writer:
        writer.file_writer.add_summary(damaged, 10)
    tab.reload()
    assert tab.get("/curves", run="b").code == 422


def test_pairs_of_heads(tmp_path: Path) -> None:
    """Heads are paired so that the sum of overlaps is largest; a shuffled model finds its own heads again."""
    a, order = record(60, 0, heads=3), [2, 0, 1]
    write_run(tmp_path / "a", [a])
    write_run(tmp_path / "b", [a._replace(weights=a.weights[order])])
    write_run(tmp_path / "c", [record(60, 0, heads=3, tokens=TOKENS[:-1])])
    tab = Tab(tmp_path)
    settings = {"run": "a", "step": 60, "other_step": 60, "sentence": "probe", "layer": 0}
    answer = tab.get("/pairs", other="b", **settings).json
    assert [order[j] for j in answer["pairs"]] == [0, 1, 2]
    assert answer["overlaps"] == pytest.approx([1, 1, 1], abs=1e-3)  # rows of float16 do not sum to 1 exactly
    assert "other tokens" in tab.get("/pairs", other="c", **settings).json["error"]


def test_overlap_by_rule() -> None:
    """One minus the total variation distance; with fewer heads on the other side some go without."""
    a = weights_of(5, 3, 0)
    b = weights_of(5, 2, 1, "signed")
    table = overlaps(a, b, ("probability", "signed"))
    one, other = shares(a, "probability"), shares(b, "signed")
    assert table[1, 0] == pytest.approx((1 - np.abs(one[1] - other[0]).sum(-1) / 2).mean())
    best = max(table[i, 0] + table[j, 1] for i in range(3) for j in range(3) if i != j)
    pairs = pair_heads(table)
    assert sum(table[i, j] for i, j in enumerate(pairs) if j is not None) == pytest.approx(best)
    assert pairs.count(None) == 1


def finished(folder: Path, learning_rate: float) -> None:
    """A run that ended, with a learning rate of its own and more settings than a name tells."""
    folder.mkdir(parents=True, exist_ok=True)
    run = RunFolder(folder)
    rate = f"optimizer:\n  lr: {learning_rate}\n" + "".join(f"z{i}: {learning_rate}\n" for i in range(MOST_SETTINGS))
    elsewhere = f"seed: {folder.name[-1]}\npaths:\n  runs: x{learning_rate}\n"
    run.write_config(f"attention:\n  a: 1\n{rate}{elsewhere}")
    run.write_summary({"status": "finished"}, {})


def test_how_runs_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run's status and lowest loss; namesakes are told apart by the settings in which they differ."""
    first, second, alone = "e/base-00000001.aaaa/seed_0", "e/base-00000002.aaaa/seed_0", "e/wide-00000003.aaaa/seed_0"
    for run, rate in ((first, 0.1), (second, 0.2), (alone, 0.3)):
        write_run(tmp_path / run, [record(0, 0)], [("val/loss", loss, i) for i, loss in enumerate((3, 1 + rate, 2))])
        finished(tmp_path / run, rate)
    write_run(tmp_path / "foreign", [record(0, 0)])
    write_run(tmp_path / "renamed", [record(0, 0)])
    finished(tmp_path / "renamed", 0.4)
    (tmp_path / alone / "summary.json").unlink()
    tab = Tab(tmp_path)
    about = tab.get("/about").json
    assert {run: fact["status"] for run, fact in about.items()} == {
        first: "finished", second: "finished", alone: "unfinished", "foreign": None, "renamed": "finished",
    }  # fmt: skip
    assert {run: fact["settings"] for run, fact in about.items() if fact["settings"]} == {
        first: "lr=0.1, z0=0.1, z1=0.1, …",
        second: "lr=0.2, z0=0.2, z1=0.2, …",
    }
    assert about[second]["loss"] == pytest.approx(1.2) and about["foreign"]["loss"] is None
    with RunFolder(tmp_path / alone).lock():
        assert tab.get("/about").json[alone]["status"] == "running"
    read: list[Path] = []
    whole = RunFolder.read_summary
    monkeypatch.setattr(RunFolder, "read_summary", lambda self: read.append(self.path) or whole(self))
    assert tab.get("/about").json[first]["status"] == "finished"
    assert read == [tmp_path / alone], "what has ended is read once"


def test_tokens_in_json(tmp_path: Path) -> None:
    """Tokens arrive as they were written and only in JSON."""
    hostile = ["<img src=x onerror=alert(1)>", "</script>", '"', "\n", "\u202e", "日本"]
    write_run(tmp_path / "a", [record(0, 0, tokens=hostile)])
    assert Tab(tmp_path).map(0).map[0]["tokens"] == hostile


@pytest.mark.parametrize("name", ["index.js", "style.css"])
def test_the_page_is_made_of_files_of_the_package(tmp_path: Path, name: str) -> None:
    write_run(tmp_path / "a", [record(0, 0)])
    assert len(Tab(tmp_path).get(f"/static/{name}").content) > 1000


@pytest.mark.parametrize("name", ["../plugin.py", "..%2fplugin.py", "map_view.js", ""])
def test_no_other_file_is_given_out(tmp_path: Path, name: str) -> None:
    write_run(tmp_path / "a", [record(0, 0)])
    assert Tab(tmp_path).get(f"/static/{name}").code == 404


@pytest.mark.parametrize("settings", [{"step": "x"}, {"step": ""}, {"layer": "9"}, {"run": "b"}, {"sentence": "../x"}])
def test_answers_to_what_is_missing(tmp_path: Path, settings: dict[str, Any]) -> None:
    """What is not there is answered with a sentence."""
    write_run(tmp_path / "a", [record(0, 0)])
    reply = Tab(tmp_path).get("/map", **({"run": "a", "sentence": "probe", "layer": 0, "step": 0} | settings))
    assert reply.code == 404 and len(reply.json["error"]) > 10


STATIC = Path(__file__).parents[2] / "src/attnlab/inspection/tab/static"


@pytest.mark.parametrize("path", sorted(STATIC.iterdir()), ids=lambda path: path.name)
def test_no_html_from_text(path: Path) -> None:
    """Text never becomes HTML and files stay short."""
    text = path.read_text(encoding="utf-8")
    for danger in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http://", "https://"):
        assert danger not in text
    assert len(text.splitlines()) <= 300


def test_scripts_are_joined() -> None:
    """One script holds every file once, after what it imports, and no name of a file stands in two."""
    script = joined(STATIC / "index.js")
    files = [path for path in STATIC.iterdir() if path.suffix == ".js"]
    starts = {path.stem: script.index(path.read_text(encoding="utf-8").splitlines()[0]) for path in files}
    for path in files:
        for match in IMPORT.finditer(path.read_text(encoding="utf-8")):
            assert starts[match["name"]] < starts[path.stem]
    names = re.findall(r"^(?:export )?(?:async )?(?:function|class|const|let) (\w+)", script, re.MULTILINE)
    assert len(names) == len(set(names)) > 100 and not re.search("^import ", script, re.MULTILINE)


@pytest.mark.parametrize("number", ["\0", "--5", "5-", "٣", "9" * 5000, "1e3", ""])
def test_what_is_no_number_is_not_there(tmp_path: Path, number: str) -> None:
    write_run(tmp_path / "a", [record(0, 0)])
    tab = Tab(tmp_path)
    for settings in ({"step": number}, {"step": 0, "layer": number}, {"step": 0, "most": number or "x"}):
        reply = tab.get("/map", **{"run": "a", "sentence": "probe", "layer": 0} | settings)
        assert reply.code == 404 and "\n" not in reply.json["error"]
