"""SeGP-CL, the method, in pure PyTorch: no web, queue, store or environment. Begin with `learn_task`.

The names in `__all__` are the public interface; every other name may move between releases. A name is imported when it
is first used, so that `import segp_cl.errors` and `import segp_cl.config` do not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segp_cl.config import LearnerConfig
    from segp_cl.data.image_sets import FolderImages, TensorImages
    from segp_cl.data.preprocessing import Preprocessing, to_pixels
    from segp_cl.errors import KeepsightError
    from segp_cl.learn.learner import initial_state, learn_task
    from segp_cl.models.backbone import Backbone
    from segp_cl.models.load import load_backbone
    from segp_cl.prompts import as_prompt
    from segp_cl.runtime.classifier import Classifier
    from segp_cl.types import ImageSource, Learned, LearnerState, ModelSpec, Scores, Task, TaskClass

__all__ = [
    "Backbone",
    "Classifier",
    "FolderImages",
    "ImageSource",
    "KeepsightError",
    "Learned",
    "LearnerConfig",
    "LearnerState",
    "ModelSpec",
    "Preprocessing",
    "Scores",
    "Task",
    "TaskClass",
    "TensorImages",
    "as_prompt",
    "initial_state",
    "learn_task",
    "load_backbone",
    "to_pixels",
]

_HOMES = {
    "Backbone": "models.backbone",
    "Classifier": "runtime.classifier",
    "FolderImages": "data.image_sets",
    "ImageSource": "types",
    "KeepsightError": "errors",
    "Learned": "types",
    "LearnerConfig": "config",
    "LearnerState": "types",
    "ModelSpec": "types",
    "Preprocessing": "data.preprocessing",
    "Scores": "types",
    "Task": "types",
    "TaskClass": "types",
    "TensorImages": "data.image_sets",
    "as_prompt": "prompts",
    "initial_state": "learn.learner",
    "learn_task": "learn.learner",
    "load_backbone": "models.load",
    "to_pixels": "data.preprocessing",
}

if not TYPE_CHECKING:  # a type checker would take every name for one of ours

    def __getattr__(name: str) -> object:
        """Import what is asked for from the module that defines it."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
