"""Opens exported folders where neither attnlab nor jaxtyping can be imported, and says how far each is from what was
expected: `python stranger.py FOLDER ...` prints a line of JSON for each, and one about the first of them.

FOLDER holds, beside what was exported, `expected.pt`: ids, logits, loss, gradient, maps, texts of our own generation.
"""

import copy
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.modules.update({"attnlab": None, "jaxtyping": None})  # type: ignore[dict-item]

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402
from transformers.utils import logging  # noqa: E402

PADDED = (3, 0, 7)  # tokens before each row


def gap(a: Tensor, b: Tensor) -> float:
    """The largest difference, in units of the largest number if that is above 1."""
    worst = float((a - b).detach().abs().max() / b.detach().abs().max().clamp(min=1.0))
    return worst if worst == worst else float("inf")


def opened(folder: Path | str, **settings: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **settings).eval()


def greedy(model: Any, ids: Tensor, **settings: Any) -> Tensor:
    return model.generate(ids, max_new_tokens=8, do_sample=False, **settings)[:, ids.size(1) :]


def measured(folder: Path) -> dict[str, float]:
    expected, model = torch.load(folder / "expected.pt"), opened(folder)
    ids = expected["ids"]
    out = model(ids, labels=ids, output_attentions=True, output_hidden_states=True)
    out.loss.backward()
    maps = [(a, b) for a, b in zip(out.attentions, expected["maps"], strict=True)]
    gaps = {
        "logits": gap(out.logits, expected["logits"]),
        "loss": gap(out.loss, expected["loss"]),
        "gradient": gap(model.get_input_embeddings().weight.grad, expected["gradient"]),
        "maps": max(gap(a, b) if a is not None else float(b is not None) for a, b in maps),
        "hidden states": gap(model.get_output_embeddings()(out.hidden_states[-1]), expected["logits"]),
    }
    with torch.no_grad():
        gaps |= decoded(model, expected) | padded(model, ids, out.logits) | carried(model, ids, expected)
    return gaps


def decoded(model: Any, expected: dict[str, Any]) -> dict[str, float]:
    """Texts with a cache, against ours and against texts without one."""
    ids = expected["ids"]
    torch.manual_seed(0)
    sampled = model.generate(ids[:1], max_new_tokens=8, do_sample=True, temperature=0.7, top_k=12, top_p=0.8)
    beams = [greedy(model, ids, num_beams=3, use_cache=cached) for cached in (True, False)]
    first = model(ids[:, :4], use_cache=True)
    second = model(ids[:, 4:], cache=first.cache, output_attentions=True, output_hidden_states=True)
    return {
        "greedy": gap(greedy(model, ids).double(), expected["greedy"].double()),
        "sampled": gap(sampled[0, ids.size(1) :].double(), expected["sampled"].double()),
        "beams": gap(beams[0].double(), beams[1].double()),
        "cached logits": gap(torch.cat([first.logits, second.logits], dim=1), expected["logits"]),
        "cached maps": max(
            [gap(a, b[:, :, 4:]) for a, b in zip(second.attentions, expected["maps"], strict=True) if a is not None]
            or [0]
        ),
    }


def padded(model: Any, ids: Tensor, logits: Tensor) -> dict[str, float]:
    """Rows with padding on the left, and on the right, against each row alone."""
    mask = torch.ones_like(ids)
    for row, pad in enumerate(PADDED):
        mask[row, :pad] = 0
    out = model(ids, attention_mask=mask, use_cache=False, output_attentions=True)
    cached = model(ids, attention_mask=mask, use_cache=True)
    text, gaps = greedy(model, ids, attention_mask=mask), {"left": 0.0, "left, cached": 0.0, "left, text": 0.0}
    for row, pad in enumerate(PADDED):
        alone = model(ids[row : row + 1, pad:], use_cache=False)
        gaps["left"] = max(gaps["left"], gap(out.logits[row, pad:], alone.logits[0]))
        gaps["left, cached"] = max(gaps["left, cached"], gap(cached.logits[row, pad:], alone.logits[0]))
        same = greedy(model, ids[row : row + 1, pad:])[0]
        gaps["left, text"] = max(gaps["left, text"], gap(text[row].double(), same.double()))
    right = model(ids, attention_mask=mask.flip(1)).logits
    gaps["right"] = max(
        gap(right[row, : ids.size(1) - pad], logits[row, : ids.size(1) - pad]) for row, pad in enumerate(PADDED)
    )
    return gaps


def carried(model: Any, ids: Tensor, expected: dict[str, Any]) -> dict[str, float]:
    """Copied, pickled, written again, and read in bfloat16."""
    whole = io.BytesIO()
    torch.save(model, whole)
    whole.seek(0)
    again = [copy.deepcopy(model), torch.load(whole, weights_only=False)]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again.append(opened(folder))
        half = opened(folder, dtype=torch.bfloat16)
    gaps = [gap(one(ids).logits, expected["logits"]) for one in again]
    gaps.append(gap(half(ids).logits, expected["half"]))
    return dict(zip(("copied", "pickled", "written again", "bfloat16"), gaps, strict=True))


def refused(folder: Path) -> list[str]:
    """What is said to those who ask for what cannot be."""
    model, ids = opened(folder), torch.load(folder / "expected.pt")["ids"]
    gap_in_a_row, right = torch.ones_like(ids), torch.ones_like(ids)
    gap_in_a_row[0, 3], right[0, -2:] = 0, 0
    attempts = (
        lambda: model(ids, attention_mask=gap_in_a_row),
        lambda: model(ids, attention_mask=torch.zeros_like(ids)),
        lambda: model(ids, attention_mask=right, use_cache=True),
        lambda: model(ids, position_ids=torch.zeros_like(ids)),
        lambda: model(),
        lambda: model(inputs_embeds=model.get_input_embeddings()(ids), use_cache=True),
        lambda: model.generate(ids, assistant_model=model, max_new_tokens=3),
        lambda: model.generate(ids, penalty_alpha=0.6, top_k=4, trust_remote_code=True),
        lambda: opened(folder, attn_implementation="flash_attention_2"),
    )
    return [_message(attempt) for attempt in attempts]


def _message(attempt: Callable[[], Any]) -> str:
    try:
        attempt()
    except Exception as error:
        return str(error)
    return "nothing was refused"


def through_the_hub(folder: Path, cache: Path) -> float:
    """The logits of a model that lies in the cache of the Hub, as if it had been downloaded."""
    commit = "0" * 40
    home = cache / "models--someone--something"
    shutil.copytree(folder, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    model, expected = opened("someone/something", cache_dir=cache), torch.load(folder / "expected.pt")
    return gap(model(expected["ids"]).logits, expected["logits"])


def embedded(folder: Path) -> float:
    """The logits of embeddings that are given in place of tokens, padded on the left."""
    model, expected = opened(folder), torch.load(folder / "expected.pt")
    vectors, mask = model.get_input_embeddings()(expected["ids"]), torch.ones_like(expected["ids"])
    mask[1, :4] = 0
    rows = [model(inputs_embeds=vectors, attention_mask=mask), model(expected["ids"], attention_mask=mask)]
    return gap(rows[0].logits, rows[1].logits)


if __name__ == "__main__":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        print(json.dumps(measured(Path(name))), flush=True)
    with tempfile.TemporaryDirectory() as home:
        once = Path(sys.argv[1])
        others = (refused(once), through_the_hub(once, Path(home)), embedded(once))
        print(json.dumps(dict(zip(("refused", "hub", "embedded"), others, strict=True))))
