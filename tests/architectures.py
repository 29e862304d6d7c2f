"""Tiny random language models of many architectures, with what each does behind its output matrix or in its windows."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 61
WINDOW = 6
TINY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BOTH_KINDS = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
ALL_HEADS = {"num_key_value_heads": 4}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "n_inner": 48}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
LATENT |= ALL_HEADS
LINEAR = {"num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
LINEAR |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8, "mamba_n_groups": 1}
# What each has besides `TINY`. Soft-caps, scales and windows are such that leaving them out shows.
SETTINGS: dict[str, dict[str, Any]] = {
    "bert": {"is_decoder": True},
    "biogpt": {},
    "bloom": {"n_layer": 2, "n_head": 4},
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25, **BOTH_KINDS},
    "dbrx": {
        **{"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256},
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v3": {**EXPERTS, **LATENT, "n_routed_experts": 4, "n_group": 1, "topk_group": 1},
    "electra": {"is_decoder": True, "embedding_size": 16},
    "ernie4_5": {},
    "exaone4": BOTH_KINDS,
    "falcon_h1": {
        **{"lm_head_multiplier": 0.3, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
        **{"mamba_chunk_size": 8, "embedding_multiplier": 2.0},
    },
    "gemma": {},
    "gemma2": {"final_logit_softcapping": 4.0, "attn_logit_softcapping": 4.0, **BOTH_KINDS},
    "gemma3_text": {"final_logit_softcapping": 4.0, **BOTH_KINDS},
    "gemma3n_text": {
        **{"final_logit_softcapping": 4.0, "num_hidden_layers": 4, "num_kv_shared_layers": 2, "sliding_window": WINDOW},
        **{"layer_types": 2 * BOTH_KINDS["layer_types"], "intermediate_size": [48] * 4, "laurel_rank": 4},
        **{"activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0], "hidden_size_per_layer_input": 8},
        "vocab_size_per_layer_input": VOCABULARY,
    },
    "gemma4_text": {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, **BOTH_KINDS},
    "glm4": {},
    "gpt2": GPT,
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "gpt_neox": ALL_HEADS,
    "gpt_oss": {**EXPERTS, **BOTH_KINDS},
    "gptj": {**GPT, "rotary_dim": 4},
    "granite": {"logits_scaling": 3.0},
    "granitemoehybrid": {**EXPERTS, **MAMBA, "layer_types": ["mamba", "attention"], "logits_scaling": 3.0},
    "hunyuan_v1_dense": {},
    "hyperclovax": {"logits_scaling": 0.3},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "llama": {},
    "llama4_text": {
        **{**EXPERTS, "attention_chunk_size": WINDOW, "num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]},
        "layer_types": [*["chunked_attention"] * 3, "full_attention"],
    },
    "mamba": {"state_size": 8},
    "minicpm3": {
        "dim_model_base": 8,
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
    },
    "mistral": {"sliding_window": WINDOW},
    "mixtral": EXPERTS,
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256},
    "nanochat": {"final_logit_softcapping": 4.0},
    "nemotron_h": {
        **{"layer_types": ["mamba", "attention"], "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8},
        **{"n_groups": 1, "chunk_size": 8},
    },
    "olmo2": {},
    "olmo3": BOTH_KINDS,
    "openai-gpt": GPT,
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.2, "layerdrop": 0.2},
    "phi": ALL_HEADS,
    "phi3": {"sliding_window": WINDOW},
    "phimoe": {**EXPERTS, "hidden_dropout": 0.2, "lm_head_bias": True},
    "qwen2": {"use_sliding_window": True, **BOTH_KINDS},
    "qwen3": {},
    "qwen3_5_text": LINEAR,
    "qwen3_moe": EXPERTS,
    "qwen3_next": {**EXPERTS, **LINEAR, "shared_expert_intermediate_size": 16},
    "recurrent_gemma": {
        "logits_soft_cap": 4.0,
        "lru_width": 32,
        "attention_window_size": WINDOW,
        "num_hidden_layers": 3,
    },
    "seed_oss": {"residual_dropout": 0.2, "attention_dropout": 0.2},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {"sliding_window": WINDOW, "residual_dropout": 0.2},
    "xglm": {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4},
    "vaultgemma": {"final_logit_softcapping": 4.0, **BOTH_KINDS},
}


def with_eyes(**settings: Any) -> dict[str, Any]:
    """What a Gemma 3 has that also sees: sizes of its words and of its pictures, each in a configuration of its own."""
    eyes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return {
        "text_config": {**TINY, **BOTH_KINDS, **settings},
        "vision_config": {**eyes, "image_size": 28, "patch_size": 14},
        "mm_tokens_per_image": 4,
        **{"image_token_index": 60, "boi_token_index": 59, "eoi_token_index": 58},
    }


@cache
def tiny(family: str) -> Any:
    """A model of this family in eval mode, float32; the same one each time, so leave it as it is."""
    return built(family)


def built(family: str, **settings: Any) -> Any:
    """A new model of this family in eval mode, float32, all of whose weights are random, biases too."""
    own = {} if "text_config" in settings else {**TINY, **SETTINGS.get(family, {})}
    config = AutoConfig.for_model(family, **{**own, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for value in model.parameters():
            value.data += 0.2 * torch.randn_like(value)
    return model.eval()
