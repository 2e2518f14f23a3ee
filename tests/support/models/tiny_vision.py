"""Make tiny but real vision-language models in a moment, without a download.

Their vocabulary is that of tiny_models and a few tokens more; the weights are random. A greedy
answer is always printable text and never ends by chance.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from tests.support.models import tiny_models

CONTEXT = 2048
HIDDEN, HEADS, LAYERS = 64, 4, 2
SIDE, PATCH = 28, 7  # of LLaVA's pictures, in pixels: 16 patches
SPREAD = 0.08  # of the weights: wide enough that the likeliest token is no near tie
PRINTABLE = slice(len(tiny_models.SPECIAL) + 32, len(tiny_models.SPECIAL) + 127)  # tokens
TEMPLATE = (
    "{{% for m in messages %}}<|im_start|>{{{{ m['role'] }}}}\n"
    "{{% if m['content'] is string %}}{{{{ m['content'] }}}}"
    "{{% else %}}{{% for part in m['content'] %}}"
    "{{% if part['type'] == 'image' %}}{image}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}"
    "{{% endfor %}}{{% endif %}}<|im_end|>\n{{% endfor %}}"
    "{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)
LLAVA_IMAGE = "<image>"
QWEN_IMAGE = ("<|vision_start|>", "<|image_pad|>", "<|video_pad|>", "<|vision_end|>")
TEXT = {
    "hidden_size": HIDDEN,
    "intermediate_size": 2 * HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS // 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": None,
    "eos_token_id": tiny_models.END,
    "pad_token_id": tiny_models.PAD,
    "tie_word_embeddings": False,
}
TOWER = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}


def write_llava(path: Path) -> Path:
    """Write a folder like LLaVA's: a CLIP tower before a Llama; return its path."""
    import transformers

    tokenizer = _tokenizer(path, LLAVA_IMAGE)
    picture = {"shortest_edge": SIDE}
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": picture,
        "crop_size": {"height": SIDE, "width": SIDE},
    }
    tower = transformers.CLIPVisionConfig(
        **TOWER, intermediate_size=64, image_size=SIDE, patch_size=PATCH, projection_dim=32
    )
    config = transformers.LlavaConfig(
        vision_config=tower,
        text_config=transformers.LlamaConfig(vocab_size=len(tokenizer), **TEXT),
        image_token_id=tokenizer.convert_tokens_to_ids(LLAVA_IMAGE),
        image_seq_length=(SIDE // PATCH) ** 2,
    )
    _save(path, transformers.LlavaForConditionalGeneration(config))
    processor = {
        "processor_class": "LlavaProcessor",
        "patch_size": PATCH,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
        "image_token": LLAVA_IMAGE,
    }
    return _describe(path, preprocessor, processor, TEMPLATE.format(image=LLAVA_IMAGE + "\n"))


def write_qwen(path: Path) -> Path:
    """Write a folder like Qwen2-VL's, whose pictures take more or fewer tokens; return its path."""
    import transformers

    tokenizer = _tokenizer(path, *QWEN_IMAGE)
    start, image, video, end = map(tokenizer.convert_tokens_to_ids, QWEN_IMAGE)
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "size": {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 16},
    }
    text = {**TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}}
    tower = {"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2, "hidden_size": HIDDEN}
    config = transformers.Qwen2VLConfig(
        text_config={"vocab_size": len(tokenizer), **text},
        vision_config=tower,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=False,
    )
    _save(path, transformers.Qwen2VLForConditionalGeneration(config))
    template = TEMPLATE.format(image="<|vision_start|><|image_pad|><|vision_end|>")
    return _describe(path, preprocessor, {"processor_class": "Qwen2VLProcessor"}, template)


def png(color: str, *, size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    """Return a picture of one colour."""
    from PIL import Image

    data = io.BytesIO()
    Image.new("RGB", size, color).save(data, kind)
    return data.getvalue()


def _tokenizer(path: Path, *more: str) -> Any:
    import transformers

    tiny_models.write_folder(path, template=None)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(path)
    tokenizer.add_special_tokens({"additional_special_tokens": list(more)})
    tokenizer.save_pretrained(path)
    return tokenizer


def _save(path: Path, model: Any) -> None:
    import torch
    from transformers import GenerationConfig

    torch.manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(0, SPREAD)
        rows = model.lm_head.weight
        said = rows[PRINTABLE].clone()
        rows.zero_()
        rows[PRINTABLE] = said
    model.generation_config = GenerationConfig(
        eos_token_id=tiny_models.END, pad_token_id=tiny_models.PAD
    )
    model.save_pretrained(path)


def _describe(
    path: Path, preprocessor: dict[str, Any], processor: dict[str, Any], template: str
) -> Path:
    """Write what AutoProcessor reads."""
    path.joinpath("preprocessor_config.json").write_text(json.dumps(preprocessor))
    path.joinpath("processor_config.json").write_text(json.dumps(processor))
    path.joinpath("chat_template.jinja").write_text(template)
    return path
