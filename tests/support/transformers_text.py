"""Tiny models of transformers that read text."""

from __future__ import annotations

from collections.abc import Mapping

from tests.support.transformers_cases import VOCABULARY, Case, padded_tokens, text_pair

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DECODER = TINY | {"use_cache": False}
_GROUPED = _DECODER | {"num_key_value_heads": 2, "head_dim": 8}
ENCODER_DECODER = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "use_cache": False,
}
_GPT = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 40,
    "vocab_size": VOCABULARY,
    "use_cache": False,
}
_T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": VOCABULARY,
    "decoder_start_token_id": 0,
    "use_cache": False,
}
_MIXTURE = _GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}
_MAMBA = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "state_size": 4,
    "vocab_size": VOCABULARY,
    "use_cache": False,
}

TEXT_CASES: Mapping[str, Case] = {
    "AlbertModel": Case("AlbertConfig", TINY | {"embedding_size": 16}),
    "BartForConditionalGeneration": Case("BartConfig", ENCODER_DECODER, text_pair),
    "BertForMaskedLM": Case("BertConfig", TINY, padded_tokens),
    "BertModel": Case("BertConfig", TINY),
    "BloomForCausalLM": Case(
        "BloomConfig",
        {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "use_cache": False},
    ),
    "CamembertForSequenceClassification": Case("CamembertConfig", TINY),
    "CohereForCausalLM": Case("CohereConfig", _GROUPED),
    "ConvBertModel": Case("ConvBertConfig", TINY | {"embedding_size": 32, "head_ratio": 2}),
    "DebertaV2Model": Case(
        "DebertaV2Config",
        TINY
        | {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "type_vocab_size": 0,
        },
    ),
    "DistilBertModel": Case(
        "DistilBertConfig",
        {
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 48,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 40,
        },
    ),
    "ElectraForPreTraining": Case("ElectraConfig", TINY | {"embedding_size": 16}),
    "FNetModel": Case("FNetConfig", TINY),
    "FalconForCausalLM": Case(
        "FalconConfig", _DECODER | {"new_decoder_architecture": False, "multi_query": True}
    ),
    "GPT2LMHeadModel": Case("GPT2Config", _GPT),
    "GPTJForCausalLM": Case("GPTJConfig", _GPT | {"rotary_dim": 4}),
    "GPTNeoForCausalLM": Case(
        "GPTNeoConfig",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "max_position_embeddings": 40,
            "vocab_size": VOCABULARY,
            "use_cache": False,
        },
    ),
    "GPTNeoXForCausalLM": Case("GPTNeoXConfig", _DECODER),
    "Gemma2ForCausalLM": Case("Gemma2Config", _GROUPED | {"sliding_window": 4}),
    "Gemma3ForCausalLM": Case("Gemma3TextConfig", _GROUPED | {"sliding_window": 4}),
    "GemmaForCausalLM": Case("GemmaConfig", _GROUPED),
    "GraniteForCausalLM": Case("GraniteConfig", _GROUPED),
    "LlamaForCausalLM": Case("LlamaConfig", _GROUPED),
    "MPNetModel": Case("MPNetConfig", TINY),
    "Mamba2ForCausalLM": Case(
        "Mamba2Config", _MAMBA | {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 4}
    ),
    "MambaForCausalLM": Case("MambaConfig", _MAMBA),
    "MarianMTModel": Case("MarianConfig", ENCODER_DECODER, text_pair),
    "MistralForCausalLM": Case("MistralConfig", _GROUPED | {"sliding_window": 4}),
    # The default, torch's grouped matrix product, has no kernel for float64; "batched_mm" computes the same.
    "MixtralForCausalLM": Case("MixtralConfig", _MIXTURE | {"experts_implementation": "batched_mm"}),
    "MobileBertModel": Case(
        "MobileBertConfig",
        TINY
        | {
            "embedding_size": 16,
            "true_hidden_size": 16,
            "intra_bottleneck_size": 16,
            "num_feedforward_networks": 2,
        },
    ),
    "ModernBertForMaskedLM": Case(
        "ModernBertConfig", TINY | {"local_attention": 4, "global_attn_every_n_layers": 2}
    ),
    "OPTForCausalLM": Case(
        "OPTConfig",
        {key: value for key, value in _DECODER.items() if key != "intermediate_size"}
        | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    ),
    "OlmoForCausalLM": Case("OlmoConfig", _GROUPED),
    "PegasusForConditionalGeneration": Case("PegasusConfig", ENCODER_DECODER, text_pair),
    "Phi3ForCausalLM": Case("Phi3Config", _DECODER | {"num_key_value_heads": 2}),
    "PhiForCausalLM": Case("PhiConfig", _DECODER | {"num_key_value_heads": 2}),
    "Qwen2ForCausalLM": Case("Qwen2Config", _GROUPED),
    "Qwen2MoeForCausalLM": Case(
        "Qwen2MoeConfig",
        _GROUPED
        | {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 24,
            "experts_implementation": "batched_mm",
        },
    ),
    "Qwen3ForCausalLM": Case("Qwen3Config", _GROUPED),
    "RoFormerModel": Case("RoFormerConfig", TINY | {"embedding_size": 32}),
    "RobertaModel": Case("RobertaConfig", TINY, padded_tokens),
    "SqueezeBertModel": Case("SqueezeBertConfig", TINY | {"embedding_size": 32}),
    "StableLmForCausalLM": Case("StableLmConfig", _GROUPED),
    "T5ForConditionalGeneration": Case("T5Config", _T5, text_pair),
    "XLNetModel": Case(
        "XLNetConfig",
        {
            "d_model": 32,
            "n_layer": 2,
            "n_head": 4,
            "d_inner": 48,
            "vocab_size": VOCABULARY,
            "use_mems_eval": False,
        },
    ),
}
