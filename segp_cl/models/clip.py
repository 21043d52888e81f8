"""Loads open_clip models as backbones: splits the image tower before its projection and crops texts to the prompts."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import open_clip
import torch
from jaxtyping import Float, Int
from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, TextTransformer, VisionTransformer, text_global_pool
from torch import Tensor, nn

from segp_cl.data.preprocessing import Preprocessing
from segp_cl.errors import ModelLoadError, UnsupportedArchitectureError
from segp_cl.models.backbone import Backbone
from segp_cl.types import ModelSpec


class CausalText(nn.Module):
    """open_clip's text transformer, run on the longest prompt's length instead of the full context.

    Under a causal mask no token sees later ones, so the features at the end-of-text token are the same.
    """

    tower: Any

    def __init__(self, tower: nn.Module, *, crop: bool = True) -> None:
        super().__init__()
        self.tower = tower
        mask = getattr(tower, "attn_mask", None)
        pooling = getattr(tower, "pool_type", None)
        self.crop = (
            crop and mask is not None and getattr(tower, "cls_emb", None) is None and pooling in ("argmax", "eos")
        )

    @property
    def core(self) -> nn.Module:
        """The layers alone, without the cropping of prompts."""
        core: nn.Module = self.tower.transformer
        return core

    def forward(self, tokens: Int[Tensor, "prompts length"]) -> Float[Tensor, "prompts joint"]:
        tower = self.tower
        if not self.crop:
            full: Tensor = tower(tokens)
            return full
        # the end-of-text token: the highest number of the vocabulary, or the tokenizer's own
        ends = tokens if tower.pool_type == "argmax" else torch.eq(tokens, tower.eos_id).int()
        length = int(ends.argmax(dim=-1).max()) + 1
        tokens = tokens[:, :length]
        dtype = tower.transformer.get_cast_dtype()
        x = tower.token_embedding(tokens).to(dtype)
        x = x + tower.positional_embedding[:length].to(dtype)
        x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
        x = tower.ln_final(x)
        x = text_global_pool(x, tokens, tower.pool_type, eos_token_id=tower.eos_id)
        projection = tower.text_projection
        if projection is None:
            pooled: Tensor = x
        elif isinstance(projection, nn.Linear):
            pooled = projection(x)
        else:
            pooled = x @ projection
        return pooled


class PaddedText(nn.Module):
    """open_clip's Hugging Face text tower, run without trailing padding, which its mask excludes anyway."""

    tower: Any

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    @property
    def core(self) -> nn.Module:
        """The layers alone, without the cropping of prompts."""
        core: nn.Module = self.tower.transformer
        return core

    def forward(self, tokens: Int[Tensor, "prompts length"]) -> Float[Tensor, "prompts joint"]:
        pad = self.tower.config.pad_token_id
        longest = int(torch.ne(tokens, pad).sum(dim=-1).max())
        pooled: Tensor = self.tower(tokens[:, :longest])
        return pooled


class TimmTrunk(nn.Module):
    """timm's image tower up to its classifier, where that classifier is the projection."""

    trunk: Any

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.trunk.forward_features(pixels)
        pooled: Tensor = self.trunk.forward_head(features, pre_logits=True)
        return pooled


class ClassTokenBlock(ResidualAttentionBlock):  # type: ignore[misc]  # open_clip is untyped
    """The last block of a tower whose class token alone is read, computed for that token only.

    All tokens still give keys and values, so the result is the same, with a sixth of the block's multiplications.
    """

    @classmethod
    def takes(cls, visual: VisionTransformer) -> bool:
        """Return whether only the class token's last features are used of the tower."""
        last = visual.transformer.resblocks[-1]
        reads_one = visual.pool_type == "tok" and visual.attn_pool is None
        return reads_one and visual.transformer.batch_first and type(last) is ResidualAttentionBlock

    def forward(
        self,
        q_x: Float[Tensor, "batch length width"],
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | None = None,
    ) -> Float[Tensor, "batch 1 width"]:
        """Compute the block's output at the class token.

        Raises:
            NotImplementedError: keys, values or a mask are given.
        """
        if k_x is not None or v_x is not None or attn_mask is not None:
            raise NotImplementedError("got keys, values or a mask; an image's class token attends to all its tokens")
        normed = self.ln_1(q_x)
        attended: Tensor = self.attn(normed[:, :1], normed, normed, need_weights=False)[0]
        token = q_x[:, :1] + self.ls_1(attended)
        out: Tensor = token + self.ls_2(self.mlp(self.ln_2(token)))
        return out


class MatrixHead(nn.Module):
    """open_clip's ViT projection: features @ matrix."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, raw: Tensor) -> Tensor:
        return raw @ self.matrix


def split_visual(visual: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Split an open_clip image tower before its projection: (pixels to raw features, raw features to joint space).

    Raises:
        UnsupportedArchitectureError: the tower is of an unknown kind.
    """
    if isinstance(visual, VisionTransformer):
        projection = visual.proj
        visual.proj = None
        visual.output_tokens = False
        if ClassTokenBlock.takes(visual):
            # it has the same parts under the same names, and another `forward`
            visual.transformer.resblocks[-1].__class__ = ClassTokenBlock
        return visual, nn.Identity() if projection is None else MatrixHead(projection.data)
    if isinstance(visual, TimmModel):
        if len(visual.head) > 0:
            return visual.trunk, visual.head
        classifier = visual.trunk.get_classifier()
        if isinstance(classifier, nn.Linear):
            return TimmTrunk(visual.trunk), classifier
        return visual.trunk, nn.Identity()
    if isinstance(visual, ModifiedResNet):
        # the attention pool projects in one call: give it an identity and apply the real matrix afterwards
        projection = visual.attnpool.c_proj
        identity = nn.Linear(projection.in_features, projection.in_features)
        with torch.no_grad():
            identity.weight.copy_(torch.eye(projection.in_features))
            identity.bias.zero_()
        visual.attnpool.c_proj = identity
        return visual, projection
    raise UnsupportedArchitectureError(
        f"the image tower {type(visual).__name__} is not supported, expected open_clip's ViT or ResNet or a model of "
        "timm's"
    )


def state_digest(model: nn.Module) -> str:
    """Compute the SHA-256 over names, shapes, types and bytes of a model's state, in sorted order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def load_clip(spec: ModelSpec) -> Backbone:
    """Load a model by its open_clip name, hub id, folder or local checkpoint.

    Raises:
        ModelLoadError: unknown name, no weights named, unreachable or unfitting weights.
        UnsupportedArchitectureError: a tower is of an unknown kind.
    """
    schema = spec.name.startswith(("hf-hub:", "local-dir:"))
    if not schema and spec.name not in open_clip.list_models():
        raise ModelLoadError(
            f"there is no model named {spec.name!r}: use 'compact', an open_clip name such as 'ViT-B-16', "
            "'hf-hub:<org>/<model>' or 'local-dir:<folder>'"
        )
    if not schema and not spec.pretrained:
        raise ModelLoadError(
            f"{spec.name} needs weights: set the pretrained tag (such as 'openai') or the path of a local checkpoint"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tag = open_clip.get_pretrained_cfg(spec.name, spec.pretrained) if spec.pretrained and not schema else {}
            model = open_clip.create_model(
                spec.name,
                pretrained=spec.pretrained,
                # OpenAI's weights were trained with another GELU than their architecture's name says
                force_quick_gelu=bool(tag.get("quick_gelu", False)),
                force_custom_text=True,
                require_pretrained=True,
            )
            tokenizer = open_clip.get_tokenizer(spec.name)
    except Exception as error:
        where = spec.name if spec.pretrained is None else f"{spec.name} with weights {spec.pretrained!r}"
        raise ModelLoadError(f"could not load {where}: {type(error).__name__}: {error}") from error
    model.float().eval()
    digest = state_digest(model)
    logit_scale = model.logit_scale.detach().exp().item()
    settings = open_clip.get_model_preprocess_cfg(model)
    size = settings["size"]
    side = size if isinstance(size, int) else size[0]
    resize = settings["resize_mode"]
    if resize not in ("shortest", "squash"):
        raise ModelLoadError(f"{spec.name} resizes images by {resize!r}, expected 'shortest' or 'squash'")
    if isinstance(model.text, TextTransformer):
        text: nn.Module = CausalText(model.text)
    elif isinstance(model.text, HFTextEncoder):
        text = PaddedText(model.text)
    else:
        raise UnsupportedArchitectureError(
            f"the text tower {type(model.text).__name__} is not supported, expected open_clip's or Hugging Face's"
        )
    image, head = split_visual(model.visual)
    return Backbone(
        spec=spec,
        weights_digest=digest,
        image_tower=image,
        head=head,
        text_tower=text,
        tokenize=lambda prompts: tokenizer(list(prompts)),
        logit_scale=logit_scale,
        preprocessing=Preprocessing(
            size=side,
            mean=tuple(settings["mean"]),
            std=tuple(settings["std"]),
            interpolation=settings["interpolation"],
            resize=resize,
        ),
    )
