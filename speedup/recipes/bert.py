"""Hugging Face BERT: a quarter of the heads, and half of the hidden units of feed-forward parts."""

from __future__ import annotations

import torch

from speedup import apply_masks, make_masks, masks_from_heads, materialize, plan_speedup
from speedup.pruners import Norm
from speedup.recipes.made import Made


def shrink_bert() -> Made:
    """A BERT of six layers -> the small one, whose attention layers keep nine heads of twelve."""
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(num_hidden_layers=6)).eval()
    x = {"input_ids": torch.randint(30522, (1, 32)), "attention_mask": torch.ones(1, 32, dtype=torch.long)}
    layers = range(model.config.num_hidden_layers)
    heads = masks_from_heads(model, {f"encoder.layer.{n}.attention.self": [0, 4, 8] for n in layers})
    hidden = make_masks(model, x, Norm(), {f"encoder.layer.{n}.intermediate": 0.5 for n in layers})
    masks = {**heads, **hidden}
    plan = plan_speedup(model, x, masks)
    small = materialize(plan)

    with torch.no_grad():
        return Made(plan, apply_masks(model, masks)(**x).last_hidden_state, small(**x).last_hidden_state)
