"""`attnlab generate`."""

import codecs
import sys
from typing import Annotated

from attnlab.cli._arguments import Limits, Range, Run, RunCode, RunPackages
from attnlab.errors import UsageError
from attnlab.machine.environment import harmless
from attnlab.machine.limits import limited
from attnlab.options.rules import MOST_SEED
from attnlab.store.run_folder import find_run


def generate(
    *,
    run: Run,
    prompt: Annotated[str, "how the text begins"],
    tokens: Annotated[int, Range(least=1), "how many tokens to write"] = 200,
    temperature: Annotated[float, Range(least=0), "0 takes the likeliest token, 1 follows the model"] = 0.8,
    top_k: Annotated[int | None, Range(least=1), "choose among the k likeliest tokens; null: all"] = 50,
    top_p: Annotated[float | None, Range(above=0, most=1), "choose among those that make up this probability"] = None,
    seed: Annotated[int, Range(least=0, most=MOST_SEED), "the same seed writes the same text"] = 0,
    samples: Annotated[
        int, Range(least=1, most=1024), "how many texts, written side by side with seed, seed + 1, ..."
    ] = 1,
    allow_targets: RunPackages = (),
    code: RunCode = "same",
    limits: Limits = True,
) -> None:
    """Write a text with a trained model."""
    folder = find_run(run)
    import torch

    from attnlab import generation, runs

    spelled = harmless if sys.stdout.isatty() else str  # a file gets every character that the model writes
    with limited(limits):
        model, tokenizer = runs.load(folder, allow_targets=allow_targets, code=code, limits=limits)
        try:
            ids = torch.tensor(tokenizer.encode_prompt(prompt), dtype=torch.long)
        except UsageError as error:
            raise UsageError(f"prompt: {error}") from error
        new = generation.generate_batch(
            model,
            ids.expand(samples, -1),
            tokens=tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
        )
        if samples > 1:
            for text in zip(*new, strict=True):
                ended = next((i for i, token in enumerate(text) if token in tokenizer.eos), len(text))
                data = b"".join(tokenizer.token_bytes(token) for token in text[:ended])
                sys.stdout.write(spelled(f"{prompt}{data.decode('utf-8', errors='replace')}\n\n"))
            return
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a character may need several tokens
        sys.stdout.write(spelled(prompt))
        for (token,) in new:
            if token in tokenizer.eos:
                break
            sys.stdout.write(spelled(decoder.decode(tokenizer.token_bytes(token))))
            sys.stdout.flush()
        sys.stdout.write(spelled(decoder.decode(b"", final=True)) + "\n")
