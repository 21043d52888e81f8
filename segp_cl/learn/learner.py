"""`learn_task`: learns one task on top of a state."""

from __future__ import annotations

from pathlib import Path

import torch

from segp_cl.config import LearnerConfig, ResolvedConfig
from segp_cl.data.held_out import drawn_from, hold_out
from segp_cl.errors import ClassExistsError, IncompatibleStateError, InvalidTaskError
from segp_cl.learn.strategies import STRATEGIES
from segp_cl.learn.training import Outcome, Reporter, Session
from segp_cl.models.backbone import Backbone
from segp_cl.models.load import load_backbone
from segp_cl.types import HEAD, Learned, LearnedClass, LearnerState, LearnReport, OnProgress, Task, TaskClass

FEWEST_IMAGES_TO_HOLD_OUT = 5


def initial_state(backbone: Backbone) -> LearnerState:
    """Return the state before any task: no classes, no adapters. It can only classify by ad-hoc labels."""
    return LearnerState(
        model=backbone.spec,
        weights_digest=backbone.weights_digest,
        classes=(),
        prototypes=torch.empty(0, backbone.raw_dim),
        text_features=torch.empty(0, backbone.joint_dim),
        lora=None,
        fusion_weight=backbone.resolve(LearnerConfig()).fusion_weight,
    )


def learn_task(
    state: LearnerState,
    task: Task,
    *,
    config: LearnerConfig,
    generator: torch.Generator,
    on_progress: OnProgress | None = None,
    backbone: Backbone | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    folder: Path | None = None,
) -> Learned:
    """Learn `task` on top of `state` and return the next state; `state` and `backbone` do not change.

    On the CPU the same inputs give the same state, bit for bit. Images are read in batches from `task.images`, so
    memory does not grow with their number.

    Args:
        state: the state before the task; `initial_state` before the first one.
        task: new classes with their images, and known ones with more images where `task.extend` is set.
        config: hyper-parameters; those that are None follow from the model.
        generator: the source of all randomness (a CPU generator).
        on_progress: called after every step; an exception from it ends the update and reaches the caller.
        backbone: the state's base model, if it is loaded already (its device is then used); loaded otherwise.
        device: where to load the base model.
        dtype: of the forward passes: float32, or bfloat16 under autocast. Weights and losses stay float32.
        folder: where the unnamed file of the frozen stem's activations is; the system's folder for temporary files if
            None.

    Raises:
        InvalidTaskError: no classes, two of the same name, a class without images, a label out of range, another
            LoRA rank or scale than the state's.
        ClassExistsError: a class is already known and `task.extend` is not set.
        IncompatibleStateError: the state was learned on other base weights.
        UnsupportedArchitectureError: the model has no layer to adapt.
    """
    seen, rows = _seen_classes(state, task)
    counts = _count_images(task)
    base = backbone or load_backbone(state.model, device=device)
    model = base.shared_copy()
    if model.weights_digest != state.weights_digest:
        raise IncompatibleStateError(
            f"the state was learned on weights {state.weights_digest[:12]}, but {model.spec.name} has "
            f"{model.weights_digest[:12]}"
        )
    resolved = _with_the_lineage_s_lora(model.resolve(config), config, state)
    report = Reporter(on_progress)
    held_out: tuple[int, ...] = ()
    if config.fusion_weight is None:
        held_out = hold_out(
            task.images.labels,
            fraction=config.fusion_holdout,
            min_images=FEWEST_IMAGES_TO_HOLD_OUT,
            shuffle=drawn_from(generator),
        ).held_out
    session = Session(
        base=base,
        model=model,
        old=state,
        task=task,
        seen=seen,
        task_rows=rows,
        config=resolved,
        generator=generator,
        dtype=dtype,
        report=report,
        folder=folder,
        held_out=held_out,
        chooses_fusion_weight=config.fusion_weight is None,
    )
    outcome = STRATEGIES[resolved.strategy](session)
    trained = None if outcome.lora is session.old.lora else outcome.lora
    state = _next_state(session, outcome, counts)
    return Learned(
        state=state,
        report=LearnReport(
            seconds=dict(report.seconds),
            losses=tuple(report.losses),
            settings={**resolved.model_dump(), "fusion_weight": state.fusion_weight},
            adapted=tuple(trained.factors) if trained else (),
            anchors=outcome.anchors,
            steps=report.steps,
            misaligned=outcome.misaligned,
        ),
    )


def _with_the_lineage_s_lora(resolved: ResolvedConfig, asked: LearnerConfig, state: LearnerState) -> ResolvedConfig:
    """Set rank and scale to the state's: a later task trains the same adapters, so it cannot change them."""
    if state.lora is None:
        return resolved
    trained = {"rank": state.lora.rank, "lora_scale": state.lora.scale}
    head_ranks = [len(factors.a) for key, factors in state.lora.factors.items() if key.startswith(f"{HEAD}.")]
    if head_ranks:
        trained["head_rank"] = max(head_ranks)
    for name, value in trained.items():
        if name in asked.model_fields_set and getattr(asked, name) != value:
            raise InvalidTaskError(
                f"{name} was set to {value:g} by the first task and cannot become {getattr(asked, name):g}"
            )
    return resolved.model_copy(update=trained)


def _seen_classes(state: LearnerState, task: Task) -> tuple[tuple[TaskClass, ...], tuple[int, ...]]:
    """Return all classes after the task, old ones first, and the row of each of the task's classes in them."""
    if not task.classes:
        raise InvalidTaskError(f"task {task.name!r} has no classes")
    names = [c.name for c in task.classes]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InvalidTaskError(f"task {task.name!r} names the class {repeated[0]!r} more than once")
    place = {name: row for row, name in enumerate(state.class_names)}
    known = [name for name in names if name in place]
    if known and not task.extend:
        raise ClassExistsError(
            f"already known: {', '.join(map(repr, known[:5]))}{' and more' if len(known) > 5 else ''}; choose another "
            "name, or set extend to add images to known classes"
        )
    # a known class keeps the prompt it was learned with
    seen = [TaskClass(c.name, c.prompt) for c in state.classes]
    for new in task.classes:
        if new.name not in place:
            place[new.name] = len(seen)
            seen.append(new)
    return tuple(seen), tuple(place[name] for name in names)


def _count_images(task: Task) -> list[int]:
    counts = [0] * len(task.classes)
    for label in task.images.labels:
        if not 0 <= label < len(counts):
            raise InvalidTaskError(f"an image has label {label}; task {task.name!r} has {len(counts)} classes")
        counts[label] += 1
    for task_class, count in zip(task.classes, counts, strict=True):
        if count == 0:
            raise InvalidTaskError(f"class {task_class.name!r} has no images")
    return counts


def _next_state(session: Session, outcome: Outcome, counts: list[int]) -> LearnerState:
    old = session.old
    added = dict(zip(session.task_rows, counts, strict=True))
    classes = tuple(
        LearnedClass(
            name=seen.name,
            prompt=seen.prompt,
            task=old.classes[row].task if row < len(old.classes) else old.tasks + 1,
            images=(old.classes[row].images if row < len(old.classes) else 0) + added.get(row, 0),
        )
        for row, seen in enumerate(session.seen)
    )
    return LearnerState(
        model=old.model,
        weights_digest=old.weights_digest,
        classes=classes,
        prototypes=outcome.sums.means,
        text_features=outcome.text_features,
        lora=outcome.lora,
        fusion_weight=outcome.fusion_weight,
        tasks=old.tasks + 1,
        covariance=outcome.sums.covariance,
        sums=outcome.sums,
        calibration=outcome.calibration,
        familiarity=outcome.familiarity,
        held_out=outcome.held_out,
    )
