"""Draws docs/interchange/memory.png: `python -m docs.foreign_picture`; some minutes on two cores.

A small Qwen3-Next of transformers (three gated delta layers, then softmax attention, a mixture of experts in each) is
trained on the shipped stories, byte by byte, with transformers and torch alone; then `attnlab.inspect` looks into it.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

import attnlab
from attnlab.data.token_labels import label
from attnlab.inspection.figures import draw_layer, to_png

ROOT = Path(__file__).parents[1]
STEPS, ROWS, CONTEXT = 220, 8, 96
LAYER = 1
PROMPT = "The crow saw the goat. The crow"
CONFIG = {
    **{"vocab_size": 256, "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 4, "head_dim": 24},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "linear_num_key_heads": 4, "linear_num_value_heads": 4},
    **{"linear_key_head_dim": 24, "linear_value_head_dim": 24, "num_experts": 4, "num_experts_per_tok": 2},
    **{"moe_intermediate_size": 96, "shared_expert_intermediate_size": 96, "pad_token_id": None},
}


def trained() -> Qwen3NextForCausalLM:
    """The model after some hundred steps."""
    torch.manual_seed(0)
    text = torch.frombuffer(bytearray((ROOT / "data" / "stories.txt").read_bytes()), dtype=torch.uint8).long()
    model = Qwen3NextForCausalLM(Qwen3NextConfig(**CONFIG))
    with torch.no_grad():
        for layer in model.model.layers[:3]:
            layer.linear_attn.A_log.uniform_(-5, -1)  # so that it remembers from the start
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    for step in range(STEPS):
        starts = torch.randint(len(text) - CONTEXT - 1, (ROWS, 1))
        rows = text[starts + torch.arange(CONTEXT + 1)]
        loss = F.cross_entropy(model(rows[:, :-1], use_cache=False).logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(step, round(loss.item(), 3), flush=True)
    return model.eval()


def main() -> None:
    ids = list(PROMPT.encode())
    inspection = attnlab.inspect(
        trained(), {"input_ids": torch.tensor([ids])}, labels=[label(bytes([i])) for i in ids], name="Qwen3-Next"
    )
    assert not inspection.missing
    maps = inspection.parts[""]
    layer = maps.layers[LAYER]
    title = f"A small Qwen3-Next of transformers, layer {layer.layer}: a gated delta memory, by the map it implies"
    largest = float(abs(layer.weights).max())
    top = next(n * 10.0**k for k in range(-6, 3) for n in (1, 2, 5) if n * 10.0**k >= largest)
    picture = draw_layer(layer.weights, layer.kind, maps.tokens, title, scale=top)
    path = ROOT / "docs" / "interchange" / "memory.png"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(to_png(picture))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
