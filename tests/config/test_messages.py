"""What people really type: every slip gets one line that names the key, the value and what is allowed."""

import os
import runpy
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.laws.cases import drawn
from tests.limits import HANG

import attnlab.training.run
from attnlab.cli._exits import one_line_errors
from attnlab.config.messages import explain, refuse_flags, refuse_repetitions
from attnlab.errors import Diverged, Locked, NoUsableCheckpoint, Stopped, UsageError

TRAIN = Path(__file__).parents[2] / "train.py"
CONFIGS = TRAIN.parent / "configs"
SEED = "an integer of at least 0, at most 1e+18"
TINY = "model.n_layers=1 model.d_model=16 model.n_heads=2 model.context=16"
SHORT = "trainer.max_steps=2 maps.steps=2 sample.steps=1 sample.tokens=4 batch_size=2"


def choices(group: str) -> str:
    """How a message lists the options of a group."""
    return f"(choose from: {', '.join(sorted(file.stem for file in (CONFIGS / group).glob('*.yaml')))})"


# What is typed (FILES stands for the folder of the fixture), then pieces of the one line that answers.
NAMES = [
    ("attention=gq", "attention=gq does not exist; did you mean 'gqa'? (choose from: abc, "),
    ("attention=mine/gqa", "attention=mine/gqa does not exist", "choose from"),
    ("attention=", "attention= does not exist (choose from: "),
    ("position=ropee", "position=ropee does not exist; did you mean 'rope'?"),
    ("data=shakespeare", "data=shakespeare does not exist; did you mean 'tiny_shakespeare'?"),
    ("tokenizer=gpt3", f"did you mean 'gpt2'? {choices('tokenizer')}"),
    ("optimizer=adam", f"did you mean 'adamw'? {choices('optimizer')}"),
    ("trainer=tpu", "trainer=tpu does not exist", choices("trainer")),
    ("model=tny", f"model=tny does not exist; did you mean 'tiny'? {choices('model')}"),
    (
        "attention/mask=windw",
        "attention/mask=windw does not exist; did you mean 'window'? (choose from: causal, chunked, ",
    ),
    ("attention/score=[qk_nrom]", "attention/score=qk_nrom does not exist; did you mean 'qk_norm'?"),
    ("+experiment=nope", "experiment=nope does not exist"),
    ("experiment=nope", "experiment=nope does not exist"),
    ("+sweep=nope", "sweep=nope does not exist"),
    ("hydra/launcher=nope", "hydra/launcher=nope does not exist"),
    ("--config-dir=nowhere", "--config-dir (", "nowhere) is not a folder"),
    ("--config-name=nope", "--config-name (nope) does not exist in "),
]
KEYS = [
    ("attenton=gqa", "attenton is not a key of the config; did you mean 'attention'?", "train.py --cfg job"),
    ("seeed=3", "did you mean 'seed'?"),
    ("lr=0.1", "lr is not a key of the config; did you mean 'optimizer.lr'?"),
    ("model.n_layer=3", "model.n_layer is not a key of the config; did you mean 'model.n_layers'?"),
    ("optimizer.learning_rate=1", "optimizer.learning_rate is not a key", "optimizer has betas, ", "lr, "),
    ("+trainer.max_step=3", "trainer.max_step is not a key of the config; did you mean 'trainer.max_steps'?"),
    ("+x=3", "x is not a key of the config"),
    ("attention/maks=window", "attention/maks is not a group of the config; did you mean 'attention/mask'?"),
    (
        "attention.mask.window=7",
        "attention.mask.window is not a key of this config",
        "comes with attention/mask=window",
    ),
    (
        "attention=gemma2 attention.conv=4",
        "attention.conv is not a key of this config: it comes with attention=conv_heads",
        "did you mean 'attention.kinds.global.conv' or 'attention.kinds.local.conv'?",
    ),
    ("attention=linear attention.n_kv_heads=2", "it comes with attention=cross_layer or attention=gqa or attention=m"),
    ("attention=linear attention/mask=window", "attention=linear has no slot 'mask'", "decay, feature_map, gate"),
    (
        "attention=simple attention/gate=headwise",
        "attention=simple has no slot 'gate'",
        "attention/gate= cannot be set",
    ),
    ("attention=hybrid attention/mask=window", "in several places", "attention/mask@attention.kinds.local.mask"),
    ("attention=hybrid +attention.kinds.local.windw=3 attention.kinds.local.windw=4", "is given twice"),
    ("+seed=3", "seed is there already: write seed= without the plus"),
    ("+attention=gqa", "attention is there already: write attention= without the plus"),
    ("~trainer.devices", "trainer.devices is missing: it can be set, but not left out"),
    ("~experiment_name", "experiment_name is missing"),
    ("~attention", "attention must be chosen: attention=based | causal | "),
    ("~nope", "~nope takes nothing away"),
    ("seed=1 seed=2", "seed is given twice, as seed=1 and seed=2"),
    ("attention=gqa attention=mqa", "attention is given twice"),
]
TYPES = [
    ("trainer.max_steps=many", "trainer.max_steps (many) must be an integer of at least 1"),
    ("trainer.max_steps=1e3", "trainer.max_steps (1000.0) must be an integer of at least 1; write 1000"),
    ("seed=1.5", "seed (1.5) must be an integer of at least 0"),
    ("model.bias=5", "model.bias (5) must be true or false"),
    ("model.d_model=true", "model.d_model (true) must be an integer of at least 1"),
    ("model.d_model=null", "model.d_model (null) must be an integer"),
    ("optimizer.lr=fast", "optimizer.lr (fast) must be a number above 0"),
    ("optimizer.lr=[1,2]", "optimizer.lr ([1, 2]) must be a number above 0"),
    ("optimizer.betas=[0.9]", "optimizer.betas ([0.9]) must be a list of 2, each a number of at least 0, below 1"),
    ("optimizer.betas=0.9", "optimizer.betas (0.9) must be a list of 2"),
    ("optimizer.betas=[0.9,0.95,0.99]", "([0.9, 0.95, 0.99]) must be a list of 2"),
    ("maps.steps=3.5", "maps.steps (3.5) must be an integer of at least 0, at most 60"),
    ("overwrite=maybe", "overwrite (maybe) must be true or false"),
    ("attention.qkv_bias=yes", "attention.qkv_bias (yes) must be true or false"),
    ("attention._partial_=5", "attention._partial_ (5) must be true or false"),
    ("position.inside.base=high", "position.inside.base (high) must be a number above 0"),
    ("experiment_name=2024", "experiment_name (2024) must be non-empty text", """write 'experiment_name="2024"'"""),
    ("maps.prompt=5", "maps.prompt (5) must be null or non-empty text; as text, write 'maps.prompt=\"5\"'"),
    ("data=file data.path=1e5", "data.path (1e5) must be null or non-empty text", "as text, write 'data.path=\"1e5\"'"),
    (
        """'trainer.max_steps="5"'""",
        'trainer.max_steps ("5") must be an integer of at least 1 and no text; write 5 without quotation marks',
    ),
    ("""'trainer.compile="true"'""", 'trainer.compile ("true") must be auto | true | false and no text; write true'),
    ("trainer.compile=maybe", "trainer.compile (maybe) must be auto | true | false"),
    ("""'trainer.threads="null"'""", 'trainer.threads ("null") must be null or', "write null without quotation marks"),
    ("""'optimizer.lr="fast"'""", "optimizer.lr (fast) must be a number above 0"),
    *(
        (f"""'experiment_name="{name}"'""", f"experiment_name ({name}) names a folder: letters, digits")
        for name in ("a*b[c]?", "a|b", "a b", ".a")
    ),
    ("""'experiment_name="a\tb"'""", "experiment_name ('a\\tb') names a folder: letters"),
    ("trainer.precision=fp16", "trainer.precision (fp16) must be auto | fp32 | bf16"),
    ("model.norm=batch", "model.norm (batch) must be rms | layer"),
    ("seed={a:1}", "seed ({'a': 1}) must be an integer"),
    ("allow_targets=mypackage", "allow_targets (mypackage) must be a list", "allow_targets=[mypackage]"),
    ("attention.gate=null", "attention.gate (null) must hold settings", "attention/gate=elementwise | "),
    ("attention.mask=window", "attention.mask (window) must hold settings", "attention/mask=causal | chunked | "),
    (
        "attention.position=rope",
        "attention.position (rope) must hold settings",
        "position=alibi | fire | ",
    ),
    ("position.inside=null", "position.inside (null) must hold settings", "position=alibi"),
    ("maps=null", "maps (null) must hold settings"),
    ("attention=null", "attention (null) must be one of: abc, "),
    ("position=null", "position (null) must be one of: alibi, "),
    ("data=null", "data (null) must be one of: backcopy, compression, counting, file, "),
    ("model=5", "model (5) must be one of: nano, small"),
    ("attention=[gqa]", "attention takes one name, not a list: attention=based | causal | "),
    ("attention=[gqa,mqa]", "attention ([gqa,mqa]) must be one of: "),
    ("attention.mask={window:3}", "attention.mask ({window:3})", "attention.mask.NAME=VALUE"),
]
RANGES = [
    ("trainer.max_steps=0", "trainer.max_steps (0) must be an integer of at least 1"),
    ("batch_size=-4", "batch_size (-4) must be an integer of at least 1"),
    ("seed=-1", "seed (-1) must be an integer of at least 0"),
    ("model.dropout=1.0", "model.dropout (1.0) must be a number of at least 0, below 1"),
    ("optimizer.lr=0", "optimizer.lr (0) must be a number above 0"),
    ("optimizer.lr=-1e-3", "optimizer.lr (-0.001) must be a number above 0"),
    ("optimizer.lr=nan", "optimizer.lr (nan) must be a number above 0"),
    ("optimizer.lr=inf", "optimizer.lr (inf) must be a number above 0"),
    ("optimizer.grad_clip=0", "optimizer.grad_clip (0) must be null or a number above 0"),
    ("optimizer.betas=[0.9,1.0]", "optimizer.betas ([0.9, 1.0])", "below 1"),
    ("data.val_fraction=0", "data.val_fraction (0) must be a number above 0, below 1"),
    ("data.val_fraction=1", "data.val_fraction (1) must be a number above 0, below 1"),
    ("tokenizer.n_vocab=256", "tokenizer.n_vocab (256) must be null or an integer of at least 257"),
    ("sample.temperature=-1", "sample.temperature (-1) must be a number of at least 0"),
    ("sample.top_k=0", "sample.top_k (0) must be null or an integer of at least 1"),
    ("attention/mask=window attention.mask.window=0", "attention.mask.window (0) must be an integer of at least 1"),
    ("attention=hybrid attention.kinds.local.mask.window=0", "attention.kinds.local.mask.window (0) must be"),
    ("attention=linear attention.chunk=0", "attention.chunk (0) must be an integer of at least 1"),
    (
        "attention/score=[softcap] attention.score.softcap.cap=0",
        "attention.score.softcap.cap (0) must be a number above",
    ),
    ("attention/score=[softcap] attention.score.softcap.cap=nan", "attention.score.softcap.cap (nan) must be a number"),
    ("attention.score.scaled.temperature=0", "attention.score.scaled.temperature (0) must be a number above 0"),
    ("position.inside.base=-1", "position.inside.base (-1) must be a number above 0"),
    ("trainer.devices=0", "trainer.devices (0) must be an integer of at least 1"),
    ("trainer.threads=0", "trainer.threads (0) must be null or an integer of at least 1"),
    ("maps.prompt=''", "maps.prompt () must be null or non-empty text"),
    ("sample.prompt=", "sample.prompt () must be null or non-empty text"),
    ("maps.probe=''", "maps.probe () must be null or non-empty text"),
    ("resume_from=", "resume_from () must be null or non-empty text"),
    ("paths.runs=", "paths.runs () must be non-empty text"),
    ("attention=hybrid attention.pattern=", "attention.pattern () must be non-empty text"),
    ("experiment_name=", "experiment_name () must be non-empty text"),
    ("experiment_name=a/b", "experiment_name (a/b) names a folder: letters, digits, '-', '_' and '.' only"),
    ("experiment_name=..", "experiment_name (..) names a folder"),
    ("""experiment_name='"a=b"'""", "experiment_name (a=b) names a folder"),
]
SYNTAX = [
    ("attention gqa", "'attention' is not a setting: write key=value, as in attention="),
    ("attention:gqa", "'attention:gqa' is not a setting: write key=value, as in attention=gqa"),
    ("'attention = gqa'", "without spaces around the equals sign"),
    ("=5", "'=5' is not a setting: there is no key"),
    ("experiment_name=a=b", "cannot read 'experiment_name=a=b'", """'experiment_name="a=b"'"""),
    ('''maps.prompt="it's"''', "cannot read", '''"maps.prompt=\\"it's\\""'''),
    ("maps.prompt='Hello world!'", "quotes within quotes", """'maps.prompt="Hello world!"'"""),
    ("maps.prompt='Hello, world'", "maps.prompt= got several values (Hello, world): add -m", '"Hello, world"'),
    ("attention=gqa,mqa", "attention= got several names (gqa,mqa): add -m to run each"),
    ("model.d_model='${nope}'", "model.d_model: ", "'nope' not found"),
    ("model.d_model='${model.d_model}'", "model.d_model: Recursive interpolation detected"),
    ("model.d_model='${'", "cannot read 'model.d_model=${'"),
    ("seed='???'", "Missing mandatory value: seed"),
    ("maps.prompt='${oc.env:ATTNLAB_NOPE}'", "maps.prompt: ", "'ATTNLAB_NOPE' not found"),
    ("--attention=gqa", "unrecognized arguments: --attention=gqa", "without dashes"),
    ("seed=1 --config-dir=FILES/conf model=nano", "settings must stand together", "a flag cuts off model=nano"),
    ("--cfg foo", "--cfg", "invalid choice: 'foo'"),
    ("--resolve", "--resolve flag can only be used"),
    ("hydra.mode=FOO", "hydra.mode=FOO", "RUN, MULTIRUN"),
    ("hydra.run.dir=FILES/text.txt/x", "cannot write ", "text.txt/x", "hydra.run.dir"),
]
TARGETS = [
    ("attention._target_=os.system", "attention._target_ (os.system) is not allowed", "allow_targets=[os]"),
    ("attention._target_=strange.Boom", "attention._target_ (strange.Boom) is not allowed"),
    ("+x._target_=strange.Boom", "x._target_ (strange.Boom) is not allowed"),
    ("'+x=[{_target_:strange.Boom}]'", "x[0]._target_ (strange.Boom) is not allowed"),
    ("'+attention.mask.more=[[{_target_:strange.Boom}]]'", "(strange.Boom) is not allowed"),
    ("attention=hybrid +attention.kinds.evil._target_=strange.Boom", "attention.kinds.evil._target_ (strange.Boom) is"),
    ("attention=hybrid attention.kinds.local.mask._target_=strange.Boom", "attention.kinds.local.mask._target_ ("),
    ("--config-dir=FILES/conf +experiment=strange", "attention._target_ (strange.Boom) is not allowed"),
    (
        "--config-dir=FILES/conf +experiment=selfish",
        "allow_targets (strange) must be typed, for no file can allow itself",
    ),
    ("attention._target_=attnlab_evil.X", "attention._target_ (attnlab_evil.X) is not allowed"),
    (r'''"attention._target_='\${oc.decode:strange.Boom}'"''', "must be the name of a class: package.module.Class"),
    (r'''"attention.mask='\${oc.create:{_target_:strange.Boom}}'"''', "must hold settings, not a value"),
    ("attention._target_=attnlab", "attention._target_ (attnlab) must be the name of a class"),
    ("attention._target_=null", "attention._target_ (null) must be the name of a class"),
    ("attention._target_=..", "attention._target_ (..) must be the name of a class"),
    ("allow_targets=[1]", "allow_targets ([1]) must be a list of names of packages"),
]
OWN_FILES = [
    ("attention=broken", "broken.yaml is not a YAML file", "line 2"),
    ("attention=twice", "twice.yaml is not a YAML file: found duplicate key a"),
    ("attention=binary", "is not text in UTF-8"),
    ("attention=empty", "attention names no class: its YAML file needs a line _target_"),
    ("attention=list", "attention (['a', 'b']) must hold settings by name"),
    ("attention=wrong_defaults", "attention=nope does not exist"),
    ("attention=wrong_override", "attention/maks is not a group of the config; did you mean 'attention/mask'?"),
    ("experiment=misspelt", "model.d_modle is not a key of the config; did you mean 'model.d_model'?"),
    ("experiment=misnamed", "attention=gq does not exist; did you mean 'gqa'?"),
    ("experiment=wrong_value", "optimizer.lr (-1) must be a number above 0"),
    ("+experiment=notes notes.who=5", "notes.who (5) must be text"),
    ("+experiment=notes +notes.what=5", "notes.what is not a key of the config; notes has tags, who"),
]
BEFORE_TORCH = [
    *(case for table in (NAMES, KEYS, TYPES, RANGES, SYNTAX, TARGETS) for case in table),
    *((f"--config-dir=FILES/conf {words}", *says) for words, *says in OWN_FILES),
]

CONSTRUCTIONS = [
    ("model.n_heads=5", "n_heads (5) must divide d_model (128); try n_heads in [1, 2, 4, 8, 16, 32, 64]"),
    ("attention.n_kv_heads=3", "attention.n_kv_heads (3) must divide n_heads (4); try n_kv_heads in [1, 2, 4]"),
    ("attention=gqa attention.n_kv_heads=8", "attention.n_kv_heads (8) must divide n_heads (4)"),
    ("attention=hybrid attention.kinds.local.n_kv_heads=3", "attention.kinds.local.n_kv_heads (3) must divide"),
    ("attention.head_dim=7", "position=rope rotates pairs, so the width of a head (7) must be even"),
    ("attention.conv=1", "attention.conv (1) must be 0 (none) or at least 2"),
    (
        "attention=linear position=alibi",
        "position.inside (ALiBi) works through bias",
        "RecurrentAttention offers only ro",
    ),
    ("attention=simple attention.causal=false", "attention.causal=true"),
    ("attention/score=[scaled,unscaled]", "attention/score holds Scaled and Unscaled"),
    ("attention=gated_delta attention/output_norm=sum", "attention/output_norm=sum divides by a sum of weights"),
    (
        "attention=hybrid attention.pattern='\"local globl\"'",
        "attention.pattern ('local globl')",
        "['global', 'local']",
    ),
    ("+attention.windw=3", "attention.windw (3) is not an option: MultiHeadAttention has none called 'windw'"),
    ("+attention.normalizr=3", "did you mean 'normalizer'?"),
    ("+attention.mask.windw=3", "attention.mask.windw (3) is not an option: Causal has none called 'windw'"),
    ("+optimizer.windw=3", "optimizer.windw (3) is not an option: AdamW has none called 'windw'"),
    ("+attention.layer=3", "attention.layer (3) is not an option: MultiHeadAttention has none called 'layer'"),
    ("+attention._args_=[1]", "attention._args_[0] (1) is not a setting"),
    ("attention._partial_=false", "attention needs _partial_: true, so that each layer gets one of its own"),
    ("attention._target_=attnlab.attention.nope.Nope", "there is no module attnlab.attention.nope"),
    ("attention._target_=attnlab.attention.multi_head.MultiHeadAtention", "did you mean 'MultiHeadAttention'?"),
    ("attention._target_=attnlab.attention.base.Attention", "is abstract: name one of its subclasses"),
    ("attention._target_=attnlab.attention.mask.os.system", "there is no module attnlab.attention.mask.os"),
    ("attention._target_=attnlab.attention.mask.Tensor", "(attnlab.attention.mask.Tensor) is not a class of attnlab"),
    ("attention._target_=attnlab.attention.heads.split_heads", "must name a subclass of Attention, or a function"),
    ("attention._target_=attnlab.attention.traits.MapKind", "is not a class of attnlab"),
    ("attention._target_=attnlab.attention.mask.Causal", "must name a subclass of Attention"),
    (
        "allow_targets=[os] attention._target_=os.system",
        "attention._target_ (os.system) is not a class of attnlab or os",
    ),
    (
        "allow_targets=[nopackage] attention._target_=nopackage.X",
        "there is no module nopackage: install it, or start in",
    ),
    ("allow_targets=[brokenpackage] attention._target_=brokenpackage.X", "cannot be imported: ", "line 1"),
    ("--config-dir=FILES/conf attention=one_for_all", "attention.mask needs _partial_: true"),
    (
        "--config-dir=FILES/conf allow_targets=[ownpackage] attention=own attention.alpha=-1",
        "alpha (-1) must not be neg",
    ),
    (
        "--config-dir=FILES/conf allow_targets=[ownpackage] attention=own +attention.nope=1",
        "Own has none called 'nope'",
    ),
]
DEVICES = [
    ("trainer=gpu", "trainer.accelerator (gpu) needs a GPU and this machine has none; use trainer=cpu"),
    ("trainer=ddp batch_size=3", "batch_size (3) must be a multiple of trainer.devices (2)"),
]
FILES = [
    ("data=file", "data=file needs a text: set data.path=FILE"),
    ("data=file data.path=nope.txt", "data.path (nope.txt) does not exist (looked in "),
    ("data=file data.path=FILES", "is a folder: it must be one text file"),
    ("data=file data.path=FILES/empty.txt", "is empty: it must hold text"),
    ("data=file data.path=FILES/binary.txt", "is not UTF-8 text: byte 0"),
    ("data=file data.path=FILES/utf16.txt", "is UTF-16 or UTF-32", "convert the file to UTF-8"),
    ("data=file data.path=FILES/short.txt", "model.context (128) is too long for this data", "must be at most 21;"),
    ("data=file data.path=FILES/letter.txt", "is too small: of its 1 bytes"),
    ("data.sha256=abc data.path=FILES/text.txt", "text.txt) has sha256 ", "but data.sha256 is abc"),
    ("data=tiny_shakespeare data.sha256=abc", "data.sha256 (abc) must be 64 hexadecimal digits"),
    ("data=tiny_shakespeare data.path=FILES/text.txt", "to train on a text of your own, use data=file"),
    (
        "data=tiny_shakespeare",
        "data=tiny_shakespeare: could not fetch https://",
        "no network",
        "put the file at ",
        "or set",
    ),
    ("data=the_verdict", "data=the_verdict: could not fetch https://", "put the file at ", "or set data.path=FILE"),
    ("tokenizer=gpt2", "tokenizer=gpt2: could not fetch https://", "put the file at ", "TIKTOKEN_CACHE_DIR"),
    ("tokenizer=bpe tokenizer.n_vocab=5000", "tokenizer.n_vocab (5000) is more than", "it must be at most "),
    ("paths.runs=FILES/text.txt/below", "paths.runs (", "text.txt is not a folder"),
    ("paths.cache=FILES/text.txt", "paths.cache (", "text.txt is not a folder"),
    ("maps.prompt='a prompt that is too long' model.context=8", "maps.prompt (25 tokens) is longer than model.context"),
    ("maps.prompt='\"Ж\"' tokenizer=char", "maps.prompt: the text holds 'Ж' (U+0416)", "tokenizer=bpe or byte"),
    (
        "sample.prompt='a prompt that is too long' model.context=8",
        "sample.prompt (25 tokens) must be 1 to model.context",
    ),
    ("resume_from=FILES", "resume_from (", "must be the folder of a finished run: it has no summary.json"),
]
AFTER_TORCH = [
    *CONSTRUCTIONS,
    *DEVICES,
    *(
        (
            " ".join(
                [
                    words,
                    *(["data=file data.path=FILES/text.txt"] if "data" not in words else []),
                    *(["tokenizer=byte"] if "tokenizer" not in words else []),
                ]
            ),
            *says,
        )
        for words, *says in FILES
    ),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts, with YAML files of a user's own, and with packages that lie about."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "text.txt").write_text("\n".join(f"Line {i} is a line of {i * i} words." for i in range(120)))
    (folder / "short.txt").write_text("A short text, but a text.")
    (folder / "letter.txt").write_text("a")
    (folder / "empty.txt").write_text("")
    (folder / "binary.txt").write_bytes(bytes(range(250, 128, -1)))
    (folder / "utf16.txt").write_bytes("A text in another encoding.".encode("utf-16"))
    (folder / "strange.py").write_text("raise AssertionError('imported')")
    (folder / "brokenpackage.py").write_text("def f(:")
    (folder / "ownpackage.py").write_text(OWN_PACKAGE)
    for name, text in OWN_YAML.items():
        path = folder / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "conf" / "attention" / "binary.yaml").write_bytes(b"\xff\xfe\x00a")
    return folder


OWN_PACKAGE = """
from attnlab.attention.multi_head import MultiHeadAttention

class Own(MultiHeadAttention):
    def __init__(self, d_model, *, n_heads, position, alpha=1, layer=0, n_layers=1, context=8):
        super().__init__(d_model, n_heads=n_heads, position=position, layer=layer, n_layers=n_layers, context=context)
        if alpha < 0:
            raise ValueError(f"alpha ({alpha}) must not be negative")
        assert alpha != 7, "a fault of the class"
"""
OWN_YAML = {
    "attention/broken": "a: [1, 2\nb: }",
    "attention/twice": "a: 1\na: 2",
    "attention/empty": "",
    "attention/list": "- a\n- b",
    "attention/wrong_defaults": "defaults:\n  - nope\n  - _self_",
    "attention/wrong_override": "defaults:\n  - multi_head\n  - override maks: window\n  - _self_",
    "attention/one_for_all": "_target_: attnlab.attention.multi_head.MultiHeadAttention\n_partial_: true\nn_heads: 4\n"
    "mask: {_target_: attnlab.attention.mask.Causal}",
    "attention/own": "_target_: ownpackage.Own\n_partial_: true\nn_heads: 4\nposition: ${position.inside}\nalpha: 1",
    "experiment/strange": "# @package _global_\nattention: {_target_: strange.Boom}",
    "experiment/selfish": "# @package _global_\nallow_targets: [strange]\nattention: {_target_: strange.Boom}",
    "experiment/misspelt": "# @package _global_\nmodel: {d_modle: 64}",
    "experiment/misnamed": "# @package _global_\ndefaults:\n  - override /attention: gq",
    "experiment/wrong_value": "# @package _global_\noptimizer: {lr: -1}",
    "experiment/notes": "# @package _global_\nnotes: {who: me, tags: [1, 2]}",
}


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: Path) -> Iterator[None]:
    """No GPU, no network, an empty current folder, and nothing left behind in this process."""

    def no_network(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network")

    def trains(*_: Any, **__: Any) -> None:
        raise AssertionError("a run that should have been refused begins to train")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(attnlab.training.run, "_train", trains)
    monkeypatch.setattr(sys, "path", [*sys.path, str(files)])
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / ".cache"))
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(1)


class Answer:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Train = Callable[..., Answer]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], files: Path) -> Train:
    """Type `python train.py WORDS`, in this process."""

    def run(words: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["train.py", *shlex.split(words.replace("FILES", str(files)))])
        try:
            runpy.run_path(str(TRAIN), run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        written = capsys.readouterr()
        return Answer(code, written.out, written.err)

    return run


def is_refused(answer: Answer, says: tuple[str, ...]) -> None:
    lines = answer.err.splitlines()
    assert len(lines) == 1, answer.err
    assert lines[0].startswith("error: ")
    assert answer.code == 2
    for piece in says:
        assert piece in lines[0]
    assert answer.out == ""
    assert {entry.name for entry in Path().iterdir()} <= {".cache"}, "nothing is written"


def cases(table: list[Any]) -> list[Any]:
    return [
        pytest.param(words, tuple(says), id=words, marks=() if drawn((words,), 4) else pytest.mark.slow)
        for words, *says in table
    ]


@pytest.mark.parametrize(("words", "says"), cases(BEFORE_TORCH))
def test_slips(train: Train, monkeypatch: pytest.MonkeyPatch, words: str, says: tuple[str, ...]) -> None:
    """Names types and ranges are refused in one line."""
    monkeypatch.setattr(attnlab.training.run, "run", None)  # the check comes before anything of training
    is_refused(train(words), says)
    assert "strange" not in sys.modules


@pytest.mark.parametrize(("words", "says"), cases(AFTER_TORCH))
def test_late_slips(train: Train, words: str, says: tuple[str, ...]) -> None:
    """What classes devices and files say is refused in one line."""
    is_refused(train(words), says)


# Without torch

STARTED = """
import atexit, runpy, sys
atexit.register(lambda: print("imported:", *(name for name in ("torch", "lightning", "numpy") if name in sys.modules)))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("words", "code"), [("--help", 0), ("--cfg job", 0), ("attention=gq", 2), ("optimizer.lr=fast", 2), ("lr=1", 2)]
)
def test_answers_without_torch(words: str, code: int) -> None:
    """Help and slips are answered before torch is imported."""
    done = alone("-c", STARTED, str(TRAIN), *words.split())
    assert done.returncode == code
    assert done.stdout.splitlines()[-1] == "imported:"


def alone(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run Python in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, env=environment, timeout=HANG
    )


# Several jobs


def test_wrong_job(train: Train) -> None:
    """One wrong job stops a sweep before the first begins."""
    answer = train("-m attention=gqa seed=-1,0")
    is_refused(answer, (f"error: seed=-1: seed (-1) must be {SEED}; 1 of 2 jobs cannot work, and none was started",))
    assert not Path("runs").exists()


def test_one_job_of_a_sweep_ends_as_it_would_alone(train: Train) -> None:
    is_refused(train("-m seed=-1"), ("error: seed (-1) must be ",))


@pytest.mark.parametrize("engine", ["", " hydra/launcher=joblib"])
def test_several_devices_are_refused_in_a_sweep(train: Train, engine: str) -> None:
    is_refused(train(f"-m trainer=ddp seed=0,1{engine}"), ("error: seed=0: trainer.devices (2) must be 1 with -m: ",))
    assert not Path("runs").exists()


def test_wrong_name_in_a_job(train: Train) -> None:
    """A name that is wrong in one job ends a sweep before the first begins."""
    is_refused(train("-m attention=gqa,nope"), ("error: attention=nope does not exist",))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("seed=range(0,0)", "seed=range(0,0) stands for no value at all, so there is no job to run"),
        ("attention=glob(zz*)", "attention=glob(zz*) stands for no value at all"),
        ("seed=interval(0,1)", "seed=interval(0,1) has no end of values"),
        ("plan=true,false", "plan (true,false) cannot be varied: it is one for the whole sweep"),
        ("+sweep=a,b", "sweep (a,b) cannot be varied"),
        ("report.margin=0.1,0.2", "report.margin (0.1,0.2) cannot be varied"),
        ("report.alpha=0.5", "report.alpha (0.5) must be a number of at least 1e-09, below 0.5"),
        ("+sweep=nope", "sweep=nope does not exist"),
        ("hydra.launcher.n_jobs=0", "hydra.launcher.n_jobs (0) must be null or an integer of at least 1"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(train: Train, words: str, line: str) -> None:
    is_refused(train(f"-m {words}"), (f"error: {line}",))
    assert not Path("runs").exists()


def test_what_is_for_many_runs_is_refused_for_one(train: Train) -> None:
    is_refused(train("preregister=true"), ("error: preregister=true is for many runs: add -m",))


def test_wrong_class_in_a_job(train: Train) -> None:
    """A fault of a class stops a sweep before the first job begins."""
    own = "--config-dir=FILES/conf attention=own allow_targets=[ownpackage]"
    answer = train(f"-m {own} attention.alpha=7,-1")
    is_refused(answer, ("error: attention.alpha=7: AssertionError: a fault of the class; 2 of 2 jobs cannot work",))


# Other ends


def job_that(raises: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise raises

    monkeypatch.setattr(attnlab.training.run, "run", run)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (Locked("the folder is in use"), 3, "error: the folder is in use"),
        (Diverged("step 3: the loss is nan"), 4, "error: step 3: the loss is nan"),
        (NoUsableCheckpoint("none is whole"), 5, "error: none is whole"),
        (Stopped("stopped at step 5", 143), 143, "error: stopped at step 5"),
        (KeyboardInterrupt(), 130, "error: stopped by Ctrl-C"),
        (UsageError("two\n  lines"), 2, "error: two lines"),
    ],
)
def test_each_trouble_has_its_exit_code(
    train: Train, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    job_that(error, monkeypatch)
    answer = train("seed=3")
    assert (answer.code, answer.err) == (code, line + "\n")


def test_a_fault_of_the_code_keeps_its_traceback(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    job_that(ZeroDivisionError("never mind"), monkeypatch)
    answer = train("seed=3")
    assert answer.code == 1 and "Traceback" in answer.err
    assert answer.err.splitlines()[-1] == "error: ZeroDivisionError: never mind (where, is told above)"


def test_full_error_of_hydra(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for it sees where Hydra stumbled."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    answer = train("attention=gq")
    assert "Traceback" in answer.err and answer.err.splitlines()[-1].startswith("error: attention=gq does not exist")
    assert answer.code == 2


def test_a_reader_that_goes_away_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        with pytest.raises(SystemExit) as end, one_line_errors():
            print("something")
    assert end.value.code == 141 and capsys.readouterr().err == ""


def test_reader_goes_away(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose reader goes away ends without a word."""
    job_that(BrokenPipeError(), monkeypatch)
    with open(os.devnull, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        answer = train("seed=3")
    assert (answer.code, answer.err) == (141, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=1", "lr=2", "seed=2"], "seed is given twice, as seed=1 and seed=2: leave one of them out"),
        (["+x=1", "x=2"], "x is given twice, as +x=1 and x=2: leave one of them out"),
        (["seed=1", "seed=1"], ""),  # that is no contradiction
        (["hydra.run.dir=a", "hydra.run.dir=b", "~x", "~x", "--cfg=job", "--cfg=all"], ""),  # Hydra's own
    ],
)
def test_repetitions(words: list[str], message: str) -> None:
    """Only one of two values could count."""
    if not message:
        return refuse_repetitions(words)
    with pytest.raises(UsageError) as caught:
        refuse_repetitions(words)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--multirn"], "unrecognized arguments: --multirn (see: "),
        (["seed=1", "--multirun", "lr=2"], "settings must stand together"),
        (["--cfg", "jobs"], "argument --cfg/-c: invalid choice"),
    ],
)
def test_flags(words: list[str], message: str) -> None:
    """A flag that is none, or that stands between settings, is refused in a line, and not with a page of usage."""
    with pytest.raises(UsageError) as caught:
        refuse_flags(words)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    refuse_flags(["seed=1", "lr=2", "--multirun"])


def test_explain_files() -> None:
    """Of what the disk or a file refuses, the file, the reason and the line."""
    error = PermissionError(13, "Permission denied", "/x/y")
    assert explain(error) == (
        "cannot write /x/y (Permission denied); paths.cache and hydra.run.dir say what goes there"
    )
    with pytest.raises(yaml.YAMLError) as caught:
        yaml.safe_load("a: 1\nb: [")
    assert "is not a YAML file: " in explain(caught.value) and "(line 2, column 5)" in explain(caught.value)
