"""Reads an npz file of features: which data sets it holds, and what each is trained and tested on."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from segp_cl.errors import KeepsightError

_NAME = re.compile(r"(?P<set>.+?)(?:_(?P<part>train|val|test))?_(?P<what>x|y|text)")
_Arrays = Mapping[str, NDArray[np.generic]]


class FeatureFileError(KeepsightError, ValueError):
    """A file does not hold features as `keepsight bench features` reads them."""


@dataclass(frozen=True)
class Rows:
    """Unit-norm features in float64, and each one's class."""

    features: Float[Tensor, "rows dim"]
    labels: Int64[Tensor, " rows"]

    def at(self, positions: Int64[Tensor, " some"]) -> Rows:
        """Those at `positions`."""
        return Rows(self.features[positions], self.labels[positions])


@dataclass(frozen=True)
class FeatureSet:
    """A data set. `kept` are rows to choose settings on, if the file sets some apart; `texts` one row per class."""

    name: str
    train: Rows
    test: Rows
    kept: Rows | None
    texts: Float[Tensor, "classes dim"] | None
    classes: int


def read_features(path: Path) -> tuple[FeatureSet, ...]:
    """Read every data set of an npz file, in the order of the file. Other arrays are passed over.

    A set NAME has `NAME_<part>_x` (features) and `NAME_<part>_y` (labels from 0), with the parts `train`, `val` and
    `test`, and may have `NAME_text` (one text feature per class). Without `train`, `val` is trained on. Where there are
    only `NAME_x` and `NAME_y`, the first half of each class's rows is tested on, and the rest is trained on.

    Raises:
        FeatureFileError: the file or an array cannot be used; the message names it.
    """
    if not path.is_file():
        raise FeatureFileError(f"there is no file {path}")
    try:
        with path.open("rb") as opened:
            stored = np.load(opened, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise FeatureFileError(f"{path} is one array; expected an npz file of several")
            found = {name: _NAME.fullmatch(name) for name in stored.files}
            names = {name: match for name, match in found.items() if match and _is_known(match)}
            arrays = {name: stored[name] for name in names}
    except FeatureFileError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise FeatureFileError(f"{path} cannot be read as an npz file of numbers: {error}") from error
    sets = dict.fromkeys(match["set"] for match in names.values())
    if not sets:
        raise FeatureFileError(
            f"{path} holds no features: expected arrays such as NAME_train_x, NAME_train_y, NAME_test_x and "
            f"NAME_test_y, got {', '.join(found) or 'none'}"
        )
    return tuple(_read_set(name, arrays) for name in sets)


def _is_known(match: re.Match[str]) -> bool:
    return match["what"] != "text" or match["part"] is None


def _read_set(name: str, arrays: _Arrays) -> FeatureSet:
    if f"{name}_x" in arrays or f"{name}_y" in arrays:
        train, test = _halves(name, _rows(f"{name}_", arrays))
        kept = None
    else:
        parts = [part for part in ("train", "val", "test") if {f"{name}_{part}_x", f"{name}_{part}_y"} & set(arrays)]
        if "test" not in parts or len(parts) < 2:
            needed = "test" if "test" not in parts else "train"
            raise FeatureFileError(f"{name} lacks the arrays {name}_{needed}_x and {name}_{needed}_y")
        rows = {part: _rows(f"{name}_{part}_", arrays) for part in parts}
        train, test = rows[parts[0]], rows["test"]
        kept = rows["val"] if len(parts) == 3 else None
    classes, dim = int(train.labels.max()) + 1, train.features.shape[1]
    untaught = sorted(set(range(classes)) - set(train.labels.tolist()))
    if untaught:
        raise FeatureFileError(f"{name} has no training row of class {untaught[0]}; classes are 0 to {classes - 1}")
    for part, other in (("test", test), ("val", kept)):
        if other is None:
            continue
        if other.features.shape[1] != dim:
            raise FeatureFileError(f"{name}: {part} features have {other.features.shape[1]} dimensions, others {dim}")
        if int(other.labels.max()) >= classes:
            raise FeatureFileError(f"{name}: a {part} row has class {int(other.labels.max())}, of {classes}")
    missing = sorted(set(range(classes)) - set(test.labels.tolist()))
    if missing:
        raise FeatureFileError(f"{name} has no test row of class {missing[0]}")
    texts = None
    if f"{name}_text" in arrays:
        texts = _unit(f"{name}_text", arrays[f"{name}_text"])
        if texts.shape != (classes, dim):
            raise FeatureFileError(f"{name}_text has shape {list(texts.shape)}, expected {[classes, dim]}")
    return FeatureSet(name, train, test, kept, texts, classes)


def _rows(prefix: str, arrays: _Arrays) -> Rows:
    for what in ("x", "y"):
        if f"{prefix}{what}" not in arrays:
            raise FeatureFileError(f"the array {prefix}{what} is missing")
    features, labels = _unit(f"{prefix}x", arrays[f"{prefix}x"]), arrays[f"{prefix}y"]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise FeatureFileError(f"{prefix}y is {labels.dtype} {list(labels.shape)}, expected integers [rows]")
    if len(labels) != len(features):
        raise FeatureFileError(f"{prefix}x has {len(features)} rows, but {prefix}y has {len(labels)}")
    exact = torch.from_numpy(labels.astype(np.int64))
    if int(exact.min()) < 0:
        raise FeatureFileError(f"{prefix}y holds the negative class {int(exact.min())}")
    if int(exact.max()) >= len(exact):
        raise FeatureFileError(f"{prefix}y holds class {int(exact.max())}, but has only {len(exact)} rows")
    return Rows(features, exact)


def _unit(name: str, array: NDArray[np.generic]) -> Float[Tensor, "rows dim"]:
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating) or 0 in array.shape:
        raise FeatureFileError(f"{name} is {array.dtype} {list(array.shape)}, expected numbers [rows, dimensions]")
    features = torch.from_numpy(array.astype(np.float64))
    if not bool(features.isfinite().all()):
        row = int((~features.isfinite()).any(dim=1).nonzero()[0])
        raise FeatureFileError(f"{name} has a value in row {row} that is not finite")
    norms = features.norm(dim=1)
    if not bool((norms > 0).all()):
        raise FeatureFileError(f"{name} has a feature of norm zero in row {int((norms == 0).nonzero()[0])}")
    return F.normalize(features, dim=1)


def _halves(name: str, rows: Rows) -> tuple[Rows, Rows]:
    train, test = [], []
    for label in range(int(rows.labels.max()) + 1):
        of_class = (rows.labels == label).nonzero()[:, 0].tolist()
        if len(of_class) < 2:
            raise FeatureFileError(f"{name} has {len(of_class)} rows of class {label}; without a split it needs two")
        test += of_class[: len(of_class) // 2]
        train += of_class[len(of_class) // 2 :]
    return rows.at(torch.tensor(train)), rows.at(torch.tensor(test))
