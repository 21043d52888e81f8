"""What the weights' files are called: known to those who only pass paths on, without importing torch."""

from __future__ import annotations

from typing import Final

MODEL: Final = "ViT-B-32"
CHECKPOINT: Final = "vit_b_32.safetensors"
LABELS: Final = "labels.json"
HF_FOLDERS: Final = {"CLIPImageProcessor": "hf-slow", "CLIPImageProcessorFast": "hf-fast"}
