"""A version as one ONNX model: pixels in, the answers of the service out, for programs without PyTorch.

`onnx`, `onnxscript` and `onnxruntime` are an extra of the package and are imported when a version is exported.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, get_args

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from segp_cl.data.preprocessing import Preprocessing
from segp_cl.errors import KeepsightError
from segp_cl.models.backbone import Backbone
from segp_cl.pixels import as_unit_pixels
from segp_cl.runtime.classifier import Classifier, NoClassesError
from segp_cl.runtime.golden import pictures
from segp_cl.scores import dual_path_scores, probabilities
from segp_cl.types import HeldOutSummary, Path

EXTRA: Final = ("onnx", "onnxscript", "onnxruntime")
"""What the extra `onnx` installs, by the names that are imported."""
INSTALL: Final = "pip install 'keepsight[onnx]'"
FORMAT: Final = "keepsight-onnx/1"
OPSET: Final = 20
MAX_DIFFERENCE: Final = 1e-3
"""Largest difference of any probability or score between the export and the service; other kernels stay below 1e-4."""
COVERAGES: Final = (0.8, 0.9, 0.95, 0.99)

INPUT: Final = "pixels"
NOISE: Final = 2  # pictures of noise beside the golden ones
PATHS: Final[tuple[Path, ...]] = get_args(Path)


class ExportUnavailableError(KeepsightError):
    """What an export needs is not installed. The message says how to install it."""


class ExportError(KeepsightError):
    """A version cannot be exported: the model has operations that ONNX lacks, is too large, or answers otherwise."""


@dataclass(frozen=True)
class Exported:
    """An ONNX file, and the largest difference between its answers and the service's when it was made."""

    data: bytes
    difference: float


class ExportedAnswers(nn.Module):
    """The answers of a classifier as one module, from 8-bit pixels.

    Outputs, in this order: `probabilities` (fused path, calibrated), `fused_scores` (the weighted mean), `text_scores`
    and `visual_scores`, all (batch, classes); and `unknown_score` (batch), where the version can tell.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self._parts, state = classifier.parts, classifier.state
        model = self._parts.model
        assert isinstance(model, Backbone)
        self.image_tower, self.head = model.image_tower, model.head  # registered, so that their weights are found
        self._fusion_weight, self._scale = state.fusion_weight, classifier.scale("fused")
        known = state.held_out
        told = known is not None and known.strangeness is not None and self._parts.strangeness is not None
        self._share = _Share(known) if known is not None and told else None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        names = ("probabilities", "fused_scores", "text_scores", "visual_scores")
        return names if self._share is None else (*names, "unknown_score")

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs for pixels (batch, 3, size, size)."""
        parts = self._parts
        raw = parts.model.raw_features(as_unit_pixels(pixels))
        scores = dual_path_scores(
            raw,
            parts.model.project(raw),
            parts.text_features,
            parts.prototypes,
            fusion_weight=self._fusion_weight,
            whitening=parts.whitening,
        )
        fused = scores.fused / (1 + self._fusion_weight)
        found = (probabilities(fused, logit_scale=self._scale), fused, scores.text, scores.visual)
        if self._share is None:
            return found
        assert parts.strangeness is not None
        assert scores.length is not None
        return (*found, self._share(parts.strangeness(scores.visual, scores.length)))


class _Share(nn.Module):
    """`segp_cl.unknown.share_less_strange` in operations that ONNX has."""

    def __init__(self, held_out: HeldOutSummary) -> None:
        super().__init__()
        assert held_out.strangeness is not None
        self.register_buffer("quantiles", held_out.strangeness.float())
        self._scale = held_out.images / (held_out.images + 1)

    def forward(self, strangeness: Tensor) -> Tensor:
        """Compute the share of each image's strangeness."""
        quantiles = self.get_buffer("quantiles")
        last = len(quantiles) - 1
        below = (strangeness[:, None] >= quantiles).sum(dim=1)  # of equal quantiles the last counts, as in numpy
        left = (below - 1).clamp(0, last - 1)
        low, high = quantiles[left], quantiles[left + 1]
        step = ((strangeness - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)).clamp(0, 1)
        return (left + step) / last * self._scale


def check_installed() -> None:
    """Check that what an export needs is installed.

    Raises:
        ExportUnavailableError: it is not.
    """
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportUnavailableError(f"exports to ONNX need {', '.join(missing)}; install the extra: {INSTALL}")


def export_onnx(classifier: Classifier, preprocessing: Preprocessing, *, about: Mapping[str, str]) -> Exported:
    """Return a version as an ONNX file, whose answers were compared with the classifier's in onnxruntime.

    The input is `pixels`, 8-bit RGB of shape (batch, 3, size, size). The outputs are those of `ExportedAnswers`. The
    file's metadata has `labels`, `preprocessing` and `answers` as JSON; see `describe`.

    Args:
        classifier: on the CPU.
        preprocessing: the base model's.
        about: metadata of the version, such as its id.

    Raises:
        ExportUnavailableError: what this needs is not installed.
        NoClassesError: the version has no classes.
        ExportError: it cannot be exported, or answers otherwise.
    """
    check_installed()
    if not classifier.state.classes:
        raise NoClassesError("a version without classes has no answers to export: teach it some")
    answers = ExportedAnswers(classifier)
    example = torch.zeros(2, 3, preprocessing.size, preprocessing.size, dtype=torch.uint8)
    name = classifier.state.model.name
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                answers,
                (example,),
                input_names=[INPUT],
                output_names=list(answers.outputs),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        assert program is not None
        model: Any = program.model_proto
        _forget_how(model.graph)
        for key, value in ({"format": FORMAT} | dict(about) | describe(classifier, preprocessing)).items():
            model.metadata_props.add(key=key, value=value)
        data: bytes = model.SerializeToString()
    except (MemoryError, KeepsightError):
        raise
    except Exception as error:  # the exporter and protobuf raise many kinds
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(f"{name} cannot be exported to ONNX: {type(error).__name__}: {reason}") from error
    return Exported(data, _checked(data, classifier, answers.outputs, preprocessing.size))


def _forget_how(graph: Any) -> None:
    """Remove what the exporter tells about each node: lines of code, with the paths of this machine."""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def describe(classifier: Classifier, preprocessing: Preprocessing) -> dict[str, str]:
    """Return an export's metadata about its classifier.

    `labels` are in the order of the columns. `preprocessing` says how images become pixels; mean and standard deviation
    are applied inside. `answers` has the weight of the visual path and the multiplier of each path's scores, and the
    least probability of the labels in a set that holds the right one with a given probability (null: not known).
    """
    state = classifier.state
    how = {name: value for name, value in asdict(preprocessing).items() if name not in ("mean", "std")}
    answers = {
        "fusion_weight": state.fusion_weight,
        "multipliers": {path: classifier.scale(path) for path in PATHS},
        "least_probability": {str(share): classifier.least_probability("fused", share) for share in COVERAGES},
    }
    return {
        "labels": json.dumps(state.class_names, ensure_ascii=False),
        "preprocessing": json.dumps(how),
        "answers": json.dumps(answers),
    }


def _checked(data: bytes, classifier: Classifier, outputs: Sequence[str], size: int) -> float:
    """Return the largest difference between the answers of a file and of a classifier, on generated pictures.

    Raises:
        ExportError: the file cannot be run, or the difference is too large.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    noise = torch.rand(NOISE, 3, size, size, generator=torch.Generator().manual_seed(0))
    pixels = (torch.cat([pictures(size), noise]) * 255).to(torch.uint8)
    found: dict[str, list[Any]] = {name: [] for name in outputs}
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        for batch in (pixels[:1], pixels[1:]):  # of different sizes
            for name, value in zip(outputs, session.run(list(outputs), {INPUT: batch.numpy()}), strict=True):
                found[name].append(torch.from_numpy(value))
    except Exception as error:  # onnxruntime raises kinds of its own
        raise ExportError(f"the export cannot be run: {str(error).strip().partition(chr(10))[0]}") from error
    expected = service_answers(classifier, pixels)
    difference = max(float((torch.cat(found[name]) - expected[name]).abs().max()) for name in outputs)
    if not difference <= MAX_DIFFERENCE:
        raise ExportError(
            f"the export answers otherwise than the service: by {difference:.2g}, at most {MAX_DIFFERENCE:g} is allowed"
        )
    return difference


def service_answers(classifier: Classifier, pixels: UInt8[Tensor, "batch 3 size size"]) -> dict[str, Tensor]:
    """Return what the service answers, by the names of an export's outputs."""
    scores = classifier.scores(pixels)
    answers = {
        "probabilities": classifier.class_probabilities(scores.fused, "fused"),
        "fused_scores": classifier.weighted_mean(scores.fused),
        "text_scores": scores.text,
        "visual_scores": scores.visual,
    }
    if (unknown := classifier.unknown_scores(scores)) is not None:
        answers["unknown_score"] = torch.tensor(unknown)
    return {name: value.cpu() for name, value in answers.items()}
