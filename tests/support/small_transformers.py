"""Tiny models of transformers whose masks leave other widths in each layer, with their plans."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from speedup import Plan, plan_speedup, plan_uniform
from tests.support.attention_models import transformers

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3]])


@frozen(eq=False)
class Pruned:
    """A model, its masks, and a call of it."""

    model: Any
    masks: dict[str, Tensor]
    call: dict[str, Any]

    def save(self, folder: Path) -> Path:
        """Write the model as transformers does, in several files."""
        self.model.save_pretrained(folder, max_shard_size="40KB")
        (folder / "tokenizer.json").write_text("{}")
        return folder


def _lively(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.3 + (1 if parameter.ndim == 1 else 0))
    return model.eval()


@cache
def llama() -> Pruned:
    """Other parts of each feed-forward, a KV group, and a quarter of the hidden channels."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 96}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    ids = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
    config = transformers().LlamaConfig(**sizes, **heads, **ids)
    model = _lively(transformers().LlamaForCausalLM(config))
    masks: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        kept = torch.ones(parameter.shape, dtype=torch.bool)
        if "gate_proj" in name or "up_proj" in name:
            kept[: 10 + 10 * int(name.split(".")[2])] = False
        if "k_proj" in name or "v_proj" in name:
            kept[8:] = False
        if "o_proj" in name or "down_proj" in name:
            kept[::4] = False
        if "embed" in name:
            kept[:, ::4] = False
        if not kept.all():
            masks[name] = kept
    return Pruned(model, masks, {"input_ids": IDS, "use_cache": False})


@cache
def gpt2() -> Pruned:
    """Other parts of each feed-forward, whose width the config leaves to its default."""
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 96}
    ids = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
    model = _lively(transformers().GPT2LMHeadModel(transformers().GPT2Config(**sizes, **ids)))
    masks: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if "mlp.c_fc" in name:
            masks[name] = torch.ones(parameter.shape, dtype=torch.bool)
            masks[name][..., : 20 + 8 * int(name.split(".")[2])] = False
    return Pruned(model, masks, {"input_ids": IDS, "use_cache": False})


CASES = {"llama": llama, "gpt2": gpt2}


@cache
def uneven_plan(case: str) -> Plan:
    """The plan as masks alone have it: layers differ in width."""
    pruned = CASES[case]()
    return plan_speedup(pruned.model, pruned.call, pruned.masks)


@cache
def uniform_plan(case: str) -> Plan:
    """The plan in which layers are equally wide."""
    pruned = CASES[case]()
    return plan_uniform(pruned.model, pruned.call, pruned.masks, multiple=4)
