"""Chooses the engine of a process: OpenVINO on a CPU where it is installed and right, else PyTorch."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Final

from segp_cl.models.backbone import Backbone
from segp_cl.runtime.engines.guarded import Failed
from segp_cl.runtime.engines.interface import Engine, EngineError, EngineUnavailableError, Precision, Wanted
from segp_cl.runtime.engines.torch_engine import TorchEngine
from segp_cl.runtime.passes import PassSettings

logger = logging.getLogger(__name__)

INSTALL: Final = "pip install 'keepsight[openvino]'"


def choose_engine(
    base: Backbone,
    *,
    wanted: Wanted = "auto",
    precision: Precision = "auto",
    passes: PassSettings | None = None,
    threads: int = 1,
    cache: Path | None = None,
    failed: Failed = lambda why: None,
) -> Engine:
    """Return the engine for versions of `base`.

    On a GPU it is always PyTorch. On a CPU `auto` takes OpenVINO where it can, and says in the log why not.

    Args:
        base: the base model.
        wanted: an engine by name, or `auto`.
        precision: arithmetic; `auto` is float32, or bfloat16 where that was measured to give the same answers.
        passes: how PyTorch runs passes.
        threads: CPU threads of OpenVINO.
        cache: folder in which converted models are kept; None: nowhere.
        failed: is called with the reason whenever PyTorch takes over a version.

    Raises:
        EngineUnavailableError: OpenVINO was asked for by name, and cannot be used.
        EngineError: OpenVINO was asked for by name, and cannot run this model.
    """
    passes = passes or PassSettings()
    by_torch = TorchEngine(passes)
    if wanted == "torch":
        return by_torch
    if base.device.type != "cpu":
        if wanted == "openvino":
            logger.warning("engine=openvino is for CPUs; on %s torch is used", base.device)
        return by_torch
    try:
        _check_usable(base, passes)
        return _openvino(base, by_torch, precision, threads, cache, failed)
    except EngineError as error:
        if wanted == "openvino":
            raise
        logger.info("engine=torch, not openvino: %s", error)
        return by_torch


def _check_usable(base: Backbone, passes: PassSettings) -> None:
    if importlib.util.find_spec("openvino") is None:
        raise EngineUnavailableError(f"it is not installed; {INSTALL} makes passes on this CPU faster")
    if passes.sizes or base.is_compiled:
        raise EngineUnavailableError("the image tower is compiled by torch.compile, as the settings say")


def _openvino(
    base: Backbone, by_torch: TorchEngine, precision: Precision, threads: int, cache: Path | None, failed: Failed
) -> Engine:
    # an extra of the package, and imported only where it is used
    try:
        from segp_cl.runtime.engines.openvino_engine import open_engine

        return open_engine(base, by_torch, precision=precision, threads=threads, cache=cache, failed=failed)
    except EngineError:
        raise
    except Exception as error:  # an installation that is broken, and whatever the engine raises
        raise EngineError(f"{type(error).__name__}: {error}") from error
