"""A Hugging Face Llama: heads and hidden units go, and it generates as before, with its cache."""

from __future__ import annotations

from typing import Any

import torch

from speedup import apply_masks, make_masks, masks_from_heads, materialize, plan_speedup
from speedup.pruners import Norm
from speedup.recipes.made import Made


def shrink_llama() -> Made:
    """A small Llama with grouped queries -> a smaller one, compared on what both generate."""
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    model: Any = LlamaForCausalLM(config).eval()
    prompt = torch.randint(1000, (1, 7))
    past = DynamicCache([(torch.randn(1, 4, 5, 32), torch.randn(1, 4, 5, 32)) for _ in range(2)])
    x = {"input_ids": prompt, "use_cache": True}
    step = {"input_ids": prompt[:, :1], "past_key_values": past, "use_cache": True}

    heads = masks_from_heads(model, {f"model.layers.{n}.self_attn": [0, 1, 4, 5] for n in range(2)})
    hidden = make_masks(model, {"input_ids": prompt, "use_cache": False}, Norm(), {"model.layers": 0.5})
    masks = {**hidden, **heads}
    plan = plan_speedup(model, x, masks, others=[step])  # one plan for prompts and for steps
    small: Any = materialize(plan)

    masked: Any = apply_masks(model, masks).eval()
    said = [m.generate(prompt, max_new_tokens=8, do_sample=False, pad_token_id=0) for m in (masked, small)]
    if not torch.equal(*said):
        raise AssertionError(f"the masked Llama said {said[0].tolist()}, the small one {said[1].tolist()}")
    with torch.no_grad():
        return Made(plan, masked(prompt).logits, small(prompt).logits)
