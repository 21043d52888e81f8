"""ViT-B-32 with random weights in the forms that servers want: a checkpoint, label features, Hugging Face folders.

`python -m benchmarks.serving.weights FOLDER` writes all of them once. Speed does not depend on what weights say.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common.models import write_open_clip
from benchmarks.serving.contenders import CHECKPOINT, HF_FOLDERS, LABELS, MODEL
from benchmarks.serving.figures import least_centred_cosine
from benchmarks.serving.stores import labels, prompts
from segp_cl.models.backbone import Backbone
from segp_cl.models.load import load_backbone
from segp_cl.types import ModelSpec

LEAST_COSINE: Final = 0.9999
_BLOCK: Final = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_VOCABULARY: Final = 48_894  # merges that CLIP's tokenizer uses of those in open_clip's file


def write(folder: Path) -> float:
    """Write checkpoint, label features and both Hugging Face folders.

    Returns:
        The least cosine between image features of Keepsight's model and of the converted one, each less its mean.

    Raises:
        ValueError: the converted model is another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spec = write_open_clip(folder, MODEL)
    base = load_backbone(ModelSpec(MODEL, str(folder / CHECKPOINT)))
    assert spec.pretrained == str(folder / CHECKPOINT)
    with torch.no_grad():
        text = base.text_features(prompts())
    (folder / LABELS).write_text(json.dumps({"names": labels(), "text_features": text.tolist()}))
    return _write_hf(folder, base)


def converted(state: Mapping[str, Tensor], *, vision_layers: int, text_layers: int) -> dict[str, Tensor]:
    """An open_clip CLIP's tensors under the names that transformers' CLIPModel has for them."""
    found = {
        "logit_scale": state["logit_scale"],
        "visual_projection.weight": state["visual.proj"].T,
        "text_projection.weight": state["text_projection"].T,
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
    }
    for ours, theirs in (
        ("visual.ln_pre", "vision_model.pre_layrnorm"),
        ("visual.ln_post", "vision_model.post_layernorm"),
        ("ln_final", "text_model.final_layer_norm"),
    ):
        found |= {f"{theirs}.{part}": state[f"{ours}.{part}"] for part in ("weight", "bias")}
    for ours, theirs, layers in (
        ("visual.transformer", "vision_model", vision_layers),
        ("transformer", "text_model", text_layers),
    ):
        for layer in range(layers):
            found |= _block(state, f"{ours}.resblocks.{layer}", f"{theirs}.encoder.layers.{layer}")
    return {name: tensor.contiguous().clone() for name, tensor in found.items()}


def _block(state: Mapping[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for part in ("weight", "bias"):
        packed = state[f"{ours}.attn.in_proj_{part}"]
        for name, tensor in zip("qkv", packed.chunk(3), strict=True):
            found[f"{theirs}.self_attn.{name}_proj.{part}"] = tensor
        for name, other in _BLOCK.items():
            found[f"{theirs}.{other}.{part}"] = state[f"{ours}.{name}.{part}"]
    return found


def _write_hf(folder: Path, base: Backbone) -> float:
    from safetensors.torch import load_file
    from transformers import CLIPConfig, CLIPModel

    sizes: dict[str, Any] = {
        "vision_config": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "image_size": 224,
            "patch_size": 32,
        },
        "text_config": {
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_attention_heads": 8,
            "num_hidden_layers": 12,
            "vocab_size": 49408,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
        },
    }
    for tower in sizes.values():
        tower |= {"hidden_act": "gelu", "projection_dim": 512}  # the plain GELU, as the architecture's name says
    model = CLIPModel(CLIPConfig(projection_dim=512, **sizes)).train(False)
    state = converted(load_file(folder / CHECKPOINT), vision_layers=12, text_layers=12)
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or any("position_ids" not in name for name in missing):
        raise ValueError(f"the conversion does not fit CLIPModel: lacks {missing}, has {unexpected}")
    cosine = agreement(base, model)
    if cosine < LEAST_COSINE:
        raise ValueError(f"the converted model is another one: cosine {cosine:.6f}, expected {LEAST_COSINE}")
    for processor, name in HF_FOLDERS.items():
        target = folder / name
        model.save_pretrained(target)
        _write_processors(target, base, processor)
    return cosine


def agreement(base: Backbone, model: Any) -> float:
    """The least cosine, over images of noise in several colours, between both models' features less their means.

    A model with random weights gives all images nearly the same features: without the subtraction any two would agree.
    """
    generator = torch.Generator().manual_seed(0)
    size = base.preprocessing.size
    pixels = torch.rand(8, 3, size, size, generator=generator) * torch.rand(8, 3, 1, 1, generator=generator)
    with torch.no_grad():
        ours = base.image_features(pixels)
        found = model.get_image_features(pixel_values=(pixels - base.get_buffer("mean")) / base.get_buffer("std"))
    theirs = F.normalize(getattr(found, "pooler_output", found), dim=-1)
    return least_centred_cosine(ours.numpy(), theirs.numpy())


def _write_processors(target: Path, base: Backbone, processor: str) -> None:
    size = base.preprocessing.size
    (target / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": processor,
                "do_convert_rgb": True,
                "do_resize": True,
                "size": {"shortest_edge": size},
                "resample": 3,
                "do_center_crop": True,
                "crop_size": {"height": size, "width": size},
                "do_rescale": True,
                "do_normalize": True,
                "image_mean": list(base.preprocessing.mean),
                "image_std": list(base.preprocessing.std),
                "processor_class": "CLIPProcessor",
            }
        )
    )
    from open_clip.tokenizer import bytes_to_unicode, default_bpe

    with gzip.open(default_bpe()) as file:
        merges = file.read().decode().split("\n")[1 : _VOCABULARY + 1]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (target / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (target / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    end = "<|endoftext|>"
    (target / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer",
                "model_max_length": 77,
                "bos_token": "<|startoftext|>",
                "eos_token": end,
                "unk_token": end,
                "pad_token": end,
                "processor_class": "CLIPProcessor",
            }
        )
    )


if __name__ == "__main__":
    print(json.dumps({"least_cosine": write(Path(sys.argv[1]))}))
