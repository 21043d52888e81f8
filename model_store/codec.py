"""Encodes a LearnerState as the two files of a version, safetensors and JSON with digests, and decodes it."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from model_store.types import (
    FORMATS,
    MANIFEST_FILE,
    TENSORS_FILE,
    ClassRecord,
    CorruptVersionError,
    InvalidStateError,
    Manifest,
    VersionId,
)
from segp_cl.odds import MULTIPLIERS, SHARES
from segp_cl.runtime.golden import GoldenAnswers
from segp_cl.statistics import ClassSums
from segp_cl.types import (
    HEAD,
    Calibration,
    Familiarity,
    HeldOutSummary,
    LearnedClass,
    LearnerState,
    LoraFactors,
    LoraState,
    ModelSpec,
)
from segp_cl.types import Path as ScorePath

PROTOTYPES = "prototypes"
COVARIANCE = "covariance"
SUMS = "sums"
SCATTER = "scatter"
TEXT_FEATURES = "text_features"
CHECKS = "checks."
HELD_OUT = "held_out."
STRANGENESS = f"{HELD_OUT}strangeness"
CLASS_SCATTER = "class_scatter."

_ZEROS = "0" * 64
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
_CHECKED = ("raw", "image", "scores")
_PATHS: tuple[ScorePath, ...] = get_args(ScorePath)
# fields that the content digest leaves out; of `dataset` it leaves out the name alone
_NOT_LEARNED = frozenset(
    {
        "version_id",
        "number",
        "parent",
        "other_parent",
        "created_at",
        "job_id",
        "evaluation",
        "report",
        "dataset",
        "tensors_sha256",
        "content_digest",
        "manifest_sha256",
    }
)


def encode_state(state: LearnerState, golden: GoldenAnswers | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Encode a state and its golden answers as named tensors and the manifest's fields about them.

    The tensors are on the CPU, contiguous, and share no memory. They are float32; `sums`, the upper triangle of
    their `scatter`, its part of each class where that was kept, and the quantiles of `held_out` are float64. Where sums
    are, there is no `covariance`: it follows from them.

    The fields are `model`, `weights_digest`, `classes`, `tasks`, `fusion_weight`, `lora`, `calibration`, `familiarity`
    and `held_out`.

    Raises:
        InvalidStateError: rows that do not match the classes, factors that do not match the rank, or values that
            are not finite.
    """
    tensors = {PROTOTYPES: state.prototypes, TEXT_FEATURES: state.text_features}
    if state.sums is not None:
        tensors[SUMS] = state.sums.sums
        if state.sums.scatter is not None:
            tensors[SCATTER] = _triangle(state.sums.scatter)
        own = enumerate(state.sums.own or ())
        tensors |= {f"{CLASS_SCATTER}{row}": factor for row, factor in own if factor is not None}
    elif state.covariance is not None:
        tensors[COVARIANCE] = state.covariance
    if state.held_out is not None:
        tensors |= {f"{HELD_OUT}{path}": state.held_out.odds[path] for path in _PATHS}
        if state.held_out.strangeness is not None:
            tensors[STRANGENESS] = state.held_out.strangeness[None]
    if golden is not None:
        tensors |= {f"{CHECKS}{name}": getattr(golden, name) for name in _CHECKED}
    lora = None
    if state.lora is not None:
        for target, factors in state.lora.factors.items():
            tensors[f"lora.{target}.a"] = factors.a
            tensors[f"lora.{target}.b"] = factors.b
        lora = {"rank": state.lora.rank, "scale": state.lora.scale, "adapted": sorted(state.lora.factors)}
    plain = {
        name: tensor.detach().to(device="cpu", dtype=_dtype_of(name), copy=True).contiguous()
        for name, tensor in sorted(tensors.items())
    }
    if problem := _disagreement(plain, classes=len(state.classes), rank=state.lora.rank if state.lora else 0):
        raise InvalidStateError(f"the state cannot be published: {problem}")
    return plain, {
        "model": {"name": state.model.name, "pretrained": state.model.pretrained},
        "weights_digest": state.weights_digest,
        "classes": [
            {"name": known.name, "prompt": known.prompt, "task": known.task, "images": known.images}
            for known in state.classes
        ],
        "tasks": state.tasks,
        "fusion_weight": float(state.fusion_weight),
        "lora": lora,
        "calibration": None if state.calibration is None else asdict(state.calibration),
        "familiarity": None if state.familiarity is None else asdict(state.familiarity),
        "held_out": None
        if state.held_out is None
        else {name: getattr(state.held_out, name) for name in ("images", "classes", "nobody_spread")},
    }


def decode_state(tensors: Mapping[str, Tensor], manifest: Manifest) -> LearnerState:
    """Decode a state: the inverse of `encode_state`.

    Raises:
        CorruptVersionError: tensors are missing, unexpected, or of other shapes than the manifest says.
    """
    adapted = manifest.lora.adapted if manifest.lora else ()
    expected = {PROTOTYPES, TEXT_FEATURES, *(f"lora.{target}.{factor}" for target in adapted for factor in "ab")}
    if manifest.held_out is not None:
        expected |= {f"{HELD_OUT}{path}" for path in _PATHS}
    optional = {COVARIANCE, SUMS, SCATTER, STRANGENESS, *(f"{CHECKS}{name}" for name in _CHECKED)}
    optional |= {f"{CLASS_SCATTER}{row}" for row in range(len(manifest.classes))}
    found = tensors.keys() - optional
    problem = (
        f"holds other tensors than the manifest says: {sorted(expected ^ found)[:4]}"
        if expected != found
        else _disagreement(tensors, classes=len(manifest.classes), rank=manifest.lora.rank if manifest.lora else 0)
    )
    if problem:
        raise CorruptVersionError(manifest.version_id, TENSORS_FILE, problem)
    factors = {target: LoraFactors(tensors[f"lora.{target}.a"], tensors[f"lora.{target}.b"]) for target in adapted}
    lora = LoraState(manifest.lora.rank, manifest.lora.scale, factors) if manifest.lora else None
    sums = _decode_sums(tensors, manifest)
    return LearnerState(
        model=ModelSpec(manifest.model.name, manifest.model.pretrained),
        weights_digest=manifest.weights_digest,
        classes=tuple(LearnedClass(c.name, c.prompt, c.task, c.images) for c in manifest.classes),
        prototypes=tensors[PROTOTYPES],
        text_features=tensors[TEXT_FEATURES],
        lora=lora,
        fusion_weight=manifest.fusion_weight,
        tasks=manifest.tasks,
        covariance=tensors.get(COVARIANCE) if sums is None else sums.covariance,
        sums=sums,
        calibration=Calibration(**manifest.calibration.model_dump()) if manifest.calibration else None,
        familiarity=Familiarity(**manifest.familiarity.model_dump()) if manifest.familiarity else None,
        held_out=_decode_held_out(tensors, manifest),
    )


def _decode_sums(tensors: Mapping[str, Tensor], manifest: Manifest) -> ClassSums | None:
    if SUMS not in tensors:
        return None
    counts = torch.tensor([known.images for known in manifest.classes], dtype=torch.int64)
    scatter = _symmetric(tensors[SCATTER], tensors[SUMS].shape[1]) if SCATTER in tensors else None
    own = tuple(tensors.get(f"{CLASS_SCATTER}{row}") for row in range(len(manifest.classes)))
    return ClassSums(counts, tensors[SUMS], scatter, own if any(factor is not None for factor in own) else None)


def _decode_held_out(tensors: Mapping[str, Tensor], manifest: Manifest) -> HeldOutSummary | None:
    if manifest.held_out is None:
        return None
    odds = {path: tensors[f"{HELD_OUT}{path}"] for path in _PATHS}
    strangeness = tensors[STRANGENESS][0] if STRANGENESS in tensors else None
    record = manifest.held_out
    return HeldOutSummary(odds, strangeness, record.images, record.classes, record.nobody_spread or 1.0)


def _triangle(symmetric: Tensor) -> Tensor:
    """The upper triangle of a symmetric matrix, row by row, as one row."""
    rows, columns = torch.triu_indices(*symmetric.shape)
    return symmetric[rows, columns][None]


def _symmetric(triangle: Tensor, size: int) -> Tensor:
    """The inverse of `_triangle`."""
    rows, columns = torch.triu_indices(size, size)
    matrix = triangle.new_empty(size, size)
    matrix[rows, columns] = matrix[columns, rows] = triangle[0]
    return matrix


def _dtype_of(name: str) -> torch.dtype:
    doubled = name in (SUMS, SCATTER) or name.startswith((HELD_OUT, CLASS_SCATTER))
    return torch.float64 if doubled else torch.float32


def decode_golden(tensors: Mapping[str, Tensor]) -> GoldenAnswers | None:
    """Decode the golden answers; None if the version has none."""
    stored = {name: tensors[f"{CHECKS}{name}"] for name in _CHECKED if f"{CHECKS}{name}" in tensors}
    return GoldenAnswers(**stored) if len(stored) == len(_CHECKED) else None


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of `tensors.safetensors`, which are the same for the same tensors and metadata."""
    return save(dict(tensors), None if metadata is None else dict(metadata))


def unpack(data: bytes, version_id: VersionId) -> dict[str, Tensor]:
    """Return the tensors in the bytes of `tensors.safetensors`.

    Raises:
        CorruptVersionError: the bytes are not safetensors.
    """
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CorruptVersionError(version_id, TENSORS_FILE, f"not safetensors: {error}") from error


def incomplete(path: Path) -> str | None:
    """Return what is wrong with the length of a `tensors.safetensors`, or None. Reads its header only."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(size, _MAX_HEADER_BYTES):
                return f"its {size} bytes are not safetensors"
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        return f"not safetensors: {type(error).__name__}"
    return None if size == expected else f"it has {size} bytes, expected {expected}"


def sha256(data: bytes) -> str:
    """Return the SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Encode `value` as canonical JSON: sorted keys, no spaces, UTF-8.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def content_digest(tensors: Mapping[str, Tensor], manifest: Manifest) -> str:
    """Compute the SHA-256 of what was learned and from what.

    The same data, parent, seed, settings and libraries give the same digest. It covers the manifest's fields except
    those that `Manifest` lists, with the parent's content digest in place of its id, and every tensor's name, dtype,
    shape and bytes (little-endian), sorted by name.
    """
    learned = {key: value for key, value in manifest.model_dump(mode="json").items() if key not in _NOT_LEARNED}
    for later in ("calibration", "familiarity", "held_out", "made", "other_parent_content_digest", "edit"):
        if learned[later] is None:
            del learned[later]  # manifests that were made before lack the field, and keep their digests
    if manifest.held_out is not None and manifest.held_out.nobody_spread is None:
        del learned["held_out"]["nobody_spread"]
    if manifest.dataset is not None:
        learned["dataset"] = manifest.dataset.model_dump(mode="json", exclude={"name"})
    digest = hashlib.sha256(canonical_json(learned))
    for name, tensor in sorted(tensors.items()):
        digest.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]))
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def pack_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of `manifest.json`, with `manifest_sha256` computed over all of them and filled in."""
    blank = manifest.model_copy(update={"manifest_sha256": _ZEROS})
    text = json.dumps(blank.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    before, _, after = text.rpartition(_ZEROS)  # `manifest_sha256` is the last field
    return f"{before}{sha256(text.encode())}{after}".encode()


def unpack_manifest(data: bytes, version_id: VersionId) -> Manifest:
    """Return the manifest in the bytes of `manifest.json` from the folder `version_id`.

    Raises:
        CorruptVersionError: a byte differs from what was written, or the manifest is another version's.
    """

    def corrupt(problem: str) -> CorruptVersionError:
        return CorruptVersionError(version_id, MANIFEST_FILE, problem)

    try:
        fields = json.loads(data)
        said = fields["manifest_sha256"]
        before, _, after = data.rpartition(said.encode())
        found = sha256(before + _ZEROS.encode() + after)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise corrupt(f"not a manifest: {type(error).__name__}: {error}") from error
    if found != said:
        raise corrupt(f"its SHA-256 is {found}, expected {said}")
    if fields.get("format") not in FORMATS:
        raise corrupt(f"its format is {fields.get('format')!r}; this release reads {' and '.join(FORMATS)}")
    try:
        manifest = Manifest.model_validate(_with_shared_classes(fields))
    except ValidationError as error:
        raise corrupt(f"not a manifest: {error}") from error
    if manifest.version_id != version_id:
        raise corrupt(f"it is the manifest of version {manifest.version_id}")
    return manifest


def _with_shared_classes(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest's fields with classes that are read once for all versions: most have most in common.

    With a thousand classes, they are what a manifest takes time and memory for.
    """
    try:
        return {**fields, "classes": tuple(_class_record(**known) for known in fields["classes"])}
    except (TypeError, KeyError, ValidationError):  # reading the whole says what is wrong
        return fields


@functools.lru_cache(maxsize=1 << 16)
def _class_record(name: str, prompt: str, task: int, images: int) -> ClassRecord:
    return ClassRecord.model_validate({"name": name, "prompt": prompt, "task": task, "images": images})


def _disagreement(tensors: Mapping[str, Tensor], *, classes: int, rank: int) -> str | None:
    """Return what is wrong with the tensors for this number of classes and this rank, or None.

    The head's adapters may have another rank.
    """
    for name, tensor in tensors.items():
        if tensor.dtype != _dtype_of(name) or tensor.dim() != 2:
            expected_type = str(_dtype_of(name)).removeprefix("torch.")
            return f"{name} is {tensor.dtype} {tuple(tensor.shape)}, expected a {expected_type} matrix"
        if not bool(torch.isfinite(tensor).all()):
            return f"{name} has values that are not finite"
        if name == COVARIANCE:
            if set(tensor.shape) != {tensors[PROTOTYPES].shape[1]}:
                return f"{name} has shape {tuple(tensor.shape)}, expected {tensors[PROTOTYPES].shape[1]} squared"
        elif name == SUMS:
            if tensor.shape != tensors[PROTOTYPES].shape:
                return f"{name} has shape {tuple(tensor.shape)}, expected that of the prototypes"
        elif name == SCATTER:
            raw = tensors[PROTOTYPES].shape[1]
            if tensor.shape != (1, raw * (raw + 1) // 2):
                return f"{name} has shape {tuple(tensor.shape)}, expected the upper triangle of {raw} squared"
        elif name.startswith(CLASS_SCATTER):
            if tensor.shape[1] != tensors[PROTOTYPES].shape[1]:
                return f"{name} has shape {tuple(tensor.shape)}, expected {tensors[PROTOTYPES].shape[1]} columns"
        elif name.startswith(HELD_OUT):
            expected_shape = (1, SHARES) if name == STRANGENESS else (MULTIPLIERS, SHARES)
            if tuple(tensor.shape) != expected_shape:
                return f"{name} has shape {tuple(tensor.shape)}, expected {expected_shape}"
        elif name.startswith(CHECKS):
            width = {
                "raw": tensors[PROTOTYPES].shape[1],
                "image": tensors[TEXT_FEATURES].shape[1],
                "scores": classes,
            }[name.removeprefix(CHECKS)]
            if tensor.shape[1] != width:
                return f"{name} has shape {tuple(tensor.shape)}, expected {width} columns"
        elif name in (PROTOTYPES, TEXT_FEATURES):
            if tensor.shape[0] != classes:
                return f"{name} has {tensor.shape[0]} rows, expected one for each of {classes} classes"
        else:
            expected = len(tensors[f"{name[:-1]}a"]) if name.startswith(f"lora.{HEAD}.") else rank
            if tensor.shape[0 if name.endswith(".a") else 1] != expected:
                return f"{name} has shape {tuple(tensor.shape)}, expected rank {expected}"
    return None
