"""Make tiny models of many architectures in a moment, and ask the library what they answer.

Tokenizer and chat template are those of tiny_models. Most models compute with 64 bits: how a number
is rounded depends on who shares a batch, and must not decide which token is the likeliest.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tests.support.models.tiny_models import (
    CONTEXT,
    END,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    PAD,
    SPECIAL,
    make_tokenizer,
    never_said,
)

SPREAD = 0.2  # of the weights: wide enough that an answer depends on all that was said
WINDOW = 32  # tokens that a layer with a window sees
START = 1  # the token with which the answers of encoder-decoders begin
ROLES = ("user", "assistant")

Shape = dict[str, Any]

SHAPE: Shape = {
    "hidden_size": HIDDEN,
    "intermediate_size": 2 * HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": CONTEXT,
}
GROUPED: Shape = {**SHAPE, "num_key_value_heads": KV_HEADS}
WIDE: Shape = {**GROUPED, "head_dim": HIDDEN // HEADS}  # where the default head is a large one
EXPERTS: Shape = {**GROUPED, "num_experts_per_tok": 2, "dtype": "float32"}  # no kernel for 64 bits
OLD: Shape = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": CONTEXT}
STRETCHED: Shape = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
}

# Whose chats can share a batch, each for something that the others have not
BATCHABLE: dict[str, Shape] = {
    "qwen2": GROUPED,
    "llama": GROUPED,
    "qwen3": WIDE,  # norms of queries and keys
    "phi3": {**GROUPED, "original_max_position_embeddings": CONTEXT},  # joined projections
    "gemma": {**WIDE, "num_key_value_heads": 1},  # one key head for all
    "olmo2": GROUPED,  # norms behind the layers
    "granite": {**GROUPED, "attention_multiplier": 0.3, "logits_scaling": 2.0},
    "starcoder2": GROUPED,
    "stablelm": GROUPED,  # a quarter of each head turns with the position
    "gpt2": OLD,  # learned positions
    "opt": {  # learned positions that begin at 2
        "hidden_size": HIDDEN,
        "ffn_dim": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": CONTEXT,
        "word_embed_proj_dim": HIDDEN,
    },
    "gptj": {**OLD, "rotary_dim": 8},  # its attention is no kernel of torch
    "gpt_neox": SHAPE,
    "deepseek_v3": {  # keys and values of different width
        **EXPERTS,
        "num_key_value_heads": HEADS,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 32,
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
        "first_k_dense_replace": 1,
    },
    "mixtral": {**EXPERTS, "num_local_experts": 4},
    "qwen2_moe": {
        **EXPERTS,
        "num_experts": 4,
        "moe_intermediate_size": HIDDEN,
        "shared_expert_intermediate_size": HIDDEN,
    },
    # a window that moves along, in all layers or in some:
    "mistral": {**WIDE, "sliding_window": WINDOW},
    "gemma2": {**WIDE, "sliding_window": WINDOW},
    "gemma3_text": {
        **WIDE,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt_oss": {
        **EXPERTS,
        "head_dim": HIDDEN // HEADS,
        "sliding_window": WINDOW,
        "num_local_experts": 4,
    },
}
# Batchable too, for what is tried with the models that people use most
POPULAR: dict[str, Shape] = {
    "qwen3_moe": {**EXPERTS, **WIDE, "num_experts": 4, "moe_intermediate_size": HIDDEN},
    "olmoe": {**EXPERTS, "num_experts": 4},
    "glm4": WIDE,  # norms before and behind the layers
    "smollm3": GROUPED,  # layers without positions
    **{
        name: BATCHABLE[name]
        for name in (
            *("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "granite"),
            *("mixtral", "gpt_oss"),
        )
    },
}
# Whose chats cannot; the name is the kind up to the first hyphen
ALONE: dict[str, Shape] = {
    # positions as a slope of the attention, which forward() makes itself:
    "bloom": {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": HEADS},
    "falcon-alibi": {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "alibi": True,
    },
    # angles that depend on the longest chat of the batch:
    "llama-dynamic": {
        **GROUPED,
        "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
    },
    "phi3-longrope": {
        **GROUPED,
        "original_max_position_embeddings": 64,
        "rope_parameters": STRETCHED,
    },
    # a state instead of keys and values, in all layers or in some:
    "mamba": {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "state_size": 8},
    "rwkv": {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "dtype": "float32"},
    "lfm2": {
        **GROUPED,
        "layer_types": ["conv", "full_attention"],
        "block_auto_adjust_ff_dim": False,
    },
    "qwen3_next": {
        **EXPERTS,
        "head_dim": 16,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "num_experts": 4,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "layer_types": ["linear_attention", "full_attention"],
    },
    # an encoder reads, a decoder answers:
    "t5": {
        "d_model": HIDDEN,
        "d_kv": HIDDEN // HEADS,
        "d_ff": 2 * HIDDEN,
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "decoder_start_token_id": START,
    },
    "bart": {  # the library loads it without its encoder as well, without a word
        "d_model": HIDDEN,
        "encoder_layers": LAYERS,
        "decoder_layers": LAYERS,
        "encoder_attention_heads": HEADS,
        "decoder_attention_heads": HEADS,
        "encoder_ffn_dim": 2 * HIDDEN,
        "decoder_ffn_dim": 2 * HIDDEN,
        "max_position_embeddings": CONTEXT,
        "decoder_start_token_id": START,
        "forced_eos_token_id": None,
    },
}


def write_folder(path: Path, name: str, *, ends: str = "", **changes: Any) -> Path:
    """Write a transformers folder of a name in BATCHABLE, POPULAR or ALONE; return its path.

    ends: letters that end an answer, beside the special token that is never said; changes: of the
    configuration.
    """
    tokenizer = make_tokenizer()
    shape = {**BATCHABLE, **POPULAR, **ALONE}[name]
    model = _model(name.partition("-")[0], {"dtype": "float64", **shape, **changes}, len(tokenizer))
    model.generation_config.eos_token_id = [END, *(len(SPECIAL) + ord(letter) for letter in ends)]
    tokenizer.save_pretrained(path)
    model.save_pretrained(path)
    return path


def _model(kind: str, shape: Shape, vocabulary: int) -> Any:
    import torch
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.for_model(
        kind,
        vocab_size=vocabulary,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=PAD,
        **shape,
    )
    torch.manual_seed(0)
    model = _class(config).from_config(config, dtype=getattr(torch, shape["dtype"]))
    head = model.get_output_embeddings()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if (weights.dim() > 1 or name.endswith("bias")) and "A_log" not in name:
                weights.normal_(0, SPREAD)
        head.weight[never_said()] = 0
        if getattr(head, "bias", None) is not None:
            head.bias.zero_()
    model.generation_config = GenerationConfig(
        pad_token_id=PAD, decoder_start_token_id=getattr(config, "decoder_start_token_id", None)
    )
    return model


def _class(config: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


class Library:
    """What transformers itself answers with a folder's model, to one chat after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.answer = lru_cache(None)(self._answer)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoConfig, AutoTokenizer

        kind = _class(AutoConfig.from_pretrained(self._folder))
        model = kind.from_pretrained(self._folder, dtype="auto").eval()
        return model, AutoTokenizer.from_pretrained(self._folder)

    def _answer(self, *said: str, system: str = "", **options: Any) -> str:
        """Return the greedy answer to what user and assistant said in turn."""
        import torch

        model, tokenizer = self._loaded
        chat = [{"role": ROLES[n % 2], "content": text} for n, text in enumerate(said)]
        chat = [{"role": "system", "content": system}, *chat] if system else chat
        prompt = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_dict=False, return_tensors="pt"
        )
        done = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, **options
        )
        new = done[0, 1 if model.config.is_encoder_decoder else prompt.shape[1] :].tolist()
        if new[-1] in model.generation_config.eos_token_id:
            del new[-1]
        return str(tokenizer.decode(new, skip_special_tokens=True))
