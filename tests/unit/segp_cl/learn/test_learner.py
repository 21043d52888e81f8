"""Learning tasks: what is defined, what is refused, and that it is the same every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from segp_cl.config import LearnerConfig, StrategyName
from segp_cl.data.image_sets import TensorImages
from segp_cl.errors import ClassExistsError, IncompatibleStateError, InvalidTaskError
from segp_cl.learn.learner import initial_state, learn_task
from segp_cl.learn.strategies import segp
from segp_cl.learn.strategies.shared import Gathered, gather
from segp_cl.learn.training import Inputs, Session
from segp_cl.losses import acgd_logits, acgd_loss, task_cross_entropy, tsgr_loss
from segp_cl.models.backbone import Backbone
from segp_cl.open_vocabulary import EXPECTED
from segp_cl.prompts import as_prompt
from segp_cl.prototypes import class_means
from segp_cl.runtime.classifier import Classifier
from segp_cl.statistics import ClassSums, visual_space
from segp_cl.types import Learned, LearnedClass, LearnerState, ModelSpec, Progress, Task, TaskClass
from tests.tolerances import FLOAT32_REORDERED

FAST = LearnerConfig(
    rank=4, epochs=2, batch_size=8, anchor_batch_size=4, k_adv=2, k_seed=2, min_anchors=0, learning_rate=0.004
)
COLOURS = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
}


def coloured(name: str, count: int, seed: int) -> Tensor:
    noise = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    colour = torch.tensor(COLOURS.get(name, (0.5, 0.5, 0.5))).view(1, 3, 1, 1)
    return ((0.6 * colour + 0.4 * noise) * 255).to(torch.uint8)


def task_of(names: Sequence[str], per_class: int = 6, *, extend: bool = False, seed: int = 0) -> Task:
    pixels = torch.cat([coloured(name, per_class, seed + i) for i, name in enumerate(names)])
    labels = [i for i in range(len(names)) for _ in range(per_class)]
    classes = tuple(TaskClass(name, as_prompt("a photo of a {}.", name)) for name in names)
    return Task("+".join(names)[:40], classes, TensorImages(pixels, labels), extend=extend)


def learn(
    backbone: Backbone, state: LearnerState, task: Task, config: LearnerConfig = FAST, seed: int = 0, **options: Any
) -> Learned:
    generator = torch.Generator().manual_seed(seed)
    return learn_task(state, task, config=config, generator=generator, backbone=backbone, **options)


def same(a: LearnerState, b: LearnerState) -> bool:
    if a.lora is None or b.lora is None:
        lora = a.lora is b.lora
    else:
        lora = a.lora.factors.keys() == b.lora.factors.keys() and all(
            torch.equal(f.a, b.lora.factors[k].a) and torch.equal(f.b, b.lora.factors[k].b)
            for k, f in a.lora.factors.items()
        )
    return (
        lora
        and a.classes == b.classes
        and torch.equal(a.prototypes, b.prototypes)
        and torch.equal(a.text_features, b.text_features)
    )


@pytest.fixture(scope="module")
def first(tiny_backbone: Backbone) -> LearnerState:
    return learn(tiny_backbone, initial_state(tiny_backbone), task_of(["red", "green"])).state


@pytest.mark.parametrize("strategy", get_args(StrategyName))
def test_two_tasks_learned_by_every_strategy(tiny_backbone: Backbone, strategy: StrategyName) -> None:
    config = FAST.model_copy(update={"strategy": strategy})
    state = initial_state(tiny_backbone)
    for names in (["red", "green"], ["blue", "black"]):
        state = learn(tiny_backbone, state, task_of(names), config).state
    assert state.class_names == ("red", "green", "blue", "black")
    assert [c.task for c in state.classes] == [1, 1, 2, 2]
    assert state.tasks == 2
    assert torch.allclose(state.prototypes.norm(dim=1), torch.ones(4), atol=FLOAT32_REORDERED)
    assert torch.allclose(state.text_features.norm(dim=1), torch.ones(4), atol=FLOAT32_REORDERED)
    assert (state.lora is None) == (strategy == "prototypes")
    unseen = torch.cat([coloured(name, 4, 99) for name in state.class_names])
    visual = Classifier(tiny_backbone, state).scores(unseen).visual.argmax(dim=1)
    assert (visual == torch.arange(4).repeat_interleave(4)).float().mean() > 0.9


@pytest.mark.parametrize("strategy", get_args(StrategyName))
def test_the_same_seed_gives_the_same_state(
    tiny_backbone: Backbone, first: LearnerState, strategy: StrategyName
) -> None:
    config = FAST.model_copy(update={"strategy": strategy})
    results = [learn(tiny_backbone, first, task_of(["blue", "black"]), config, seed=s).state for s in (3, 3, 4)]
    assert same(results[0], results[1])
    if strategy == "prototypes":  # nothing is drawn; but where an image stands in a batch decides its last bits
        assert torch.allclose(results[0].prototypes, results[2].prototypes, atol=FLOAT32_REORDERED)
        assert torch.equal(results[0].text_features, results[2].text_features)
    else:
        assert not torch.allclose(results[0].text_features, results[2].text_features, atol=1e-6)


def test_the_state_and_the_model_given_are_left_alone(tiny_backbone: Backbone, first: LearnerState) -> None:
    pixels = torch.rand(2, 3, 32, 32)
    before = tiny_backbone.image_features(pixels)
    copy = replace(first, prototypes=first.prototypes.clone(), text_features=first.text_features.clone())
    learn(tiny_backbone, first, task_of(["blue"]))
    assert torch.equal(tiny_backbone.image_features(pixels), before)
    assert same(copy, first)


def test_training_lowers_the_classification_loss(tiny_backbone: Backbone) -> None:
    config = FAST.model_copy(update={"epochs": 12})
    losses = learn(tiny_backbone, initial_state(tiny_backbone), task_of(["red", "green", "blue"]), config).report.losses
    assert len(losses) == 12
    assert losses[-1]["classification"] < 0.8 * losses[0]["classification"]


def test_the_first_task_has_no_anchors_and_no_distillation(tiny_backbone: Backbone) -> None:
    phases: list[str] = []
    learned = learn(
        tiny_backbone,
        initial_state(tiny_backbone),
        task_of(["red", "green", "blue"]),
        on_progress=lambda p: phases.append(p.phase),
    )
    assert learned.report.anchors == 0
    assert set(phases) == {"train", "prototypes"}
    assert all(epoch["acgd"] == 0 for epoch in learned.report.losses)
    assert any(epoch["tsgr"] > 0 for epoch in learned.report.losses)


def test_progress_counts_every_step_of_every_phase(tiny_backbone: Backbone, first: LearnerState) -> None:
    seen: list[Progress] = []
    report = learn(tiny_backbone, first, task_of(["blue", "black"]), on_progress=seen.append).report
    for phase in ("anchors", "train", "drift", "prototypes"):
        steps = [p for p in seen if p.phase == phase]
        assert [p.step for p in steps] == list(range(1, steps[0].steps + 1))
    assert report.steps == sum(p.phase == "train" for p in seen) == 4
    assert report.anchors == 4
    assert set(report.seconds) == {"anchors", "teacher", "train", "prototypes", "align"}
    assert report.adapted == tuple(sorted(report.adapted, key=report.adapted.index))
    assert any("in_proj_weight[k]" in key for key in report.adapted)


def test_what_progress_raises_ends_the_update_at_that_step(tiny_backbone: Backbone, first: LearnerState) -> None:
    class CancelledError(Exception):
        pass

    seen: list[Progress] = []

    def cancel(progress: Progress) -> None:
        seen.append(progress)
        if progress.phase == "train":
            raise CancelledError

    with pytest.raises(CancelledError):
        learn(tiny_backbone, first, task_of(["blue", "black"]), on_progress=cancel)
    assert sum(p.phase == "train" for p in seen) == 1


def test_a_single_new_class(tiny_backbone: Backbone, first: LearnerState) -> None:
    alone = learn(tiny_backbone, initial_state(tiny_backbone), task_of(["red"]))
    assert alone.state.class_names == ("red",)
    assert all(epoch["total"] == 0 for epoch in alone.report.losses)
    after = learn(tiny_backbone, first, task_of(["blue"]))
    assert after.state.class_names == ("red", "green", "blue")
    assert after.report.anchors == 4


def test_one_image_per_class(tiny_backbone: Backbone, first: LearnerState) -> None:
    state = learn(tiny_backbone, first, task_of(["blue", "black"], per_class=1)).state
    assert [c.images for c in state.classes] == [6, 6, 1, 1]
    assert state.sums is not None
    length = visual_space(state.sums)[1][3].norm()
    scores = Classifier(tiny_backbone, state).scores(coloured("black", 1, 1))
    assert length >= 1  # its mean is less certain than those of six images
    assert scores.visual[0, 3] == pytest.approx(float(length), abs=FLOAT32_REORDERED)


def test_the_order_of_tasks_does_not_matter_without_training(tiny_backbone: Backbone) -> None:
    config = LearnerConfig(strategy="prototypes", fusion_weight=1.0)
    colours = (["red", "green"], ["blue", "black", "white"])

    def learned(*tasks: Sequence[str]) -> LearnerState:
        state = initial_state(tiny_backbone)
        for names in tasks:
            pixels = torch.cat([coloured(name, 6, list(COLOURS).index(name)) for name in names])
            labels = [i for i in range(len(names)) for _ in range(6)]
            classes = tuple(TaskClass(name, f"{name}.") for name in names)
            state = learn(tiny_backbone, state, Task("t", classes, TensorImages(pixels, labels)), config).state
        return state

    unseen = torch.cat([coloured(name, 2, 50) for name in COLOURS])
    both = learned([*colours[0], *colours[1]])
    expected = Classifier(tiny_backbone, both).scores(unseen)
    assert both.covariance is not None
    for state in (learned(*colours), learned(*reversed(colours))):
        rows = [state.class_names.index(name) for name in both.class_names]
        assert torch.allclose(state.prototypes[rows], both.prototypes, atol=1e-6)
        assert state.covariance is not None
        assert torch.allclose(state.covariance, both.covariance, atol=1e-6)
        found = Classifier(tiny_backbone, state).scores(unseen)
        assert torch.allclose(found.visual[:, rows], expected.visual, atol=FLOAT32_REORDERED)


def test_a_state_that_kept_no_sums_is_learned_on(tiny_backbone: Backbone, first: LearnerState) -> None:
    old = replace(first, sums=None)
    assert torch.allclose(
        Classifier(tiny_backbone, old).scores(coloured("red", 1, 1)).text,
        Classifier(tiny_backbone, first).scores(coloured("red", 1, 1)).text,
    )
    config = FAST.model_copy(update={"strategy": "prototypes"})
    state = learn(tiny_backbone, old, task_of(["blue", "black"]), config).state
    assert state.sums is not None
    assert state.sums.counts.tolist() == [6, 6, 6, 6]
    assert torch.allclose(state.prototypes[:2], first.prototypes, atol=FLOAT32_REORDERED)
    unseen = torch.cat([coloured(name, 4, 99) for name in state.class_names])
    visual = Classifier(tiny_backbone, state).scores(unseen).visual.argmax(dim=1)
    assert (visual == torch.arange(4).repeat_interleave(4)).float().mean() > 0.9


@pytest.mark.parametrize("strategy", ["segp", "prototypes"])
def test_held_out_images_calibrate_every_path(tiny_backbone: Backbone, strategy: StrategyName) -> None:
    config = FAST.model_copy(update={"strategy": strategy})
    state = learn(tiny_backbone, initial_state(tiny_backbone), task_of(["red", "green"], per_class=10), config).state
    assert state.calibration is not None
    assert state.calibration.images == 2
    assert min(state.calibration.text, state.calibration.visual, state.calibration.fused) > 0
    assert state.familiarity is not None
    assert state.familiarity.images == 2
    assert state.familiarity != EXPECTED
    # too few for any to be held out: what was fitted before stands
    after = learn(tiny_backbone, state, task_of(["blue"], per_class=2), config).state
    assert after.calibration == state.calibration
    assert after.familiarity == state.familiarity
    # the parent's weights are where the next fit begins
    later = learn(tiny_backbone, state, task_of(["blue", "white"], per_class=10), config).state
    assert later.familiarity is not None
    assert later.familiarity not in (state.familiarity, EXPECTED)
    # the three classes that are known now are harder to tell apart than the two were
    assert state.held_out is not None
    assert after.held_out is not None
    assert (after.held_out.images, after.held_out.classes) == (state.held_out.images, state.held_out.classes) == (2, 2)
    assert all((after.held_out.odds[path] <= odds).all() for path, odds in state.held_out.odds.items())
    assert after.held_out.strangeness is state.held_out.strangeness


def test_an_image_tower_that_is_not_trained_keeps_sums_exact_and_gets_no_adapter(tiny_backbone: Backbone) -> None:
    config = FAST.model_copy(update={"image_rate": 0.0})
    first = learn(tiny_backbone, initial_state(tiny_backbone), task_of(["red", "green"], per_class=10), config).state
    second = learn(tiny_backbone, first, task_of(["blue", "white"], per_class=10), config).state
    assert not second.moves_image_tower
    assert second.lora is not None
    assert any(key.startswith("text.") for key in second.lora.factors)
    assert first.sums is not None
    assert second.sums is not None
    assert torch.equal(second.sums.sums[:2], first.sums.sums)


def test_held_out_images_of_all_tasks_add_up(tiny_backbone: Backbone) -> None:
    config, state = FAST.model_copy(update={"strategy": "prototypes"}), initial_state(tiny_backbone)
    for names in (["red", "green"], ["blue", "black"]):
        state = learn(tiny_backbone, state, task_of(names, per_class=10), config).state
    assert state.held_out is not None
    assert (state.held_out.images, state.held_out.classes) == (4, 4)
    assert state.calibration is not None
    assert state.calibration.images == 2
    again = replace(task_of(["red"], per_class=20), extend=True)
    after = learn(tiny_backbone, state, again, config).state
    assert after.held_out is not None
    assert (after.held_out.images, after.held_out.classes) == (6, 4)


def test_uneven_classes_are_trained_with_their_shares(tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    priors: list[Tensor | None] = []

    def spied(*args: Any, log_prior: Tensor | None = None, **options: Any) -> Tensor:
        priors.append(log_prior)
        return task_cross_entropy(*args, log_prior=log_prior, **options)

    monkeypatch.setattr(segp, "task_cross_entropy", spied)
    pixels = torch.cat([coloured("red", 6, 0), coloured("green", 2, 1)])
    classes = (TaskClass("red", "red."), TaskClass("green", "green."))
    config = FAST.model_copy(update={"fusion_weight": 1.0})
    learn(
        tiny_backbone, initial_state(tiny_backbone), Task("t", classes, TensorImages(pixels, [0] * 6 + [1] * 2)), config
    )
    assert priors[0] is not None
    assert priors[0].exp().tolist() == pytest.approx([0.75, 0.25])
    priors.clear()
    learn(tiny_backbone, initial_state(tiny_backbone), task_of(["red", "green"]), config)
    assert set(priors) == {None}


def test_a_known_class_is_refused_unless_more_data_is_asked_for(tiny_backbone: Backbone, first: LearnerState) -> None:
    with pytest.raises(ClassExistsError, match="'green'"):
        learn(tiny_backbone, first, task_of(["green", "blue"]))
    state = learn(tiny_backbone, first, task_of(["blue", "green"], per_class=4, extend=True)).state
    assert state.class_names == ("red", "green", "blue")
    assert [c.images for c in state.classes] == [6, 10, 4]
    assert [c.task for c in state.classes] == [1, 1, 2]


def test_more_data_moves_the_prototype_by_its_share(tiny_backbone: Backbone, first: LearnerState) -> None:
    config = FAST.model_copy(update={"strategy": "prototypes"})
    base = learn(tiny_backbone, initial_state(tiny_backbone), task_of(["red"], 8), config).state
    more = learn(tiny_backbone, base, task_of(["red"], 8, extend=True, seed=50), config).state
    fresh = learn(tiny_backbone, initial_state(tiny_backbone), task_of(["red"], 8, seed=50), config).state
    expected = torch.nn.functional.normalize(base.prototypes + fresh.prototypes, dim=-1)
    assert torch.allclose(more.prototypes, expected, atol=FLOAT32_REORDERED)


@pytest.mark.parametrize("limit", [None, 300])
def test_a_thousand_old_classes(tiny_backbone: Backbone, limit: int | None) -> None:
    state = initial_state(tiny_backbone)
    generator = torch.Generator().manual_seed(0)
    names = [f"thing {i}" for i in range(1000)]
    many = replace(
        state,
        classes=tuple(LearnedClass(name, f"a photo of a {name}.", 1, 5) for name in names),
        prototypes=torch.nn.functional.normalize(torch.randn(1000, 32, generator=generator), dim=-1),
        text_features=torch.nn.functional.normalize(torch.randn(1000, 16, generator=generator), dim=-1),
        tasks=1,
    )
    config = FAST.model_copy(update={"epochs": 1, "k_seed": 1, "k_adv": 1, "max_anchors": limit})
    learned = learn(tiny_backbone, many, task_of(["red", "green"], per_class=2), config)
    assert len(learned.state.classes) == 1002
    assert learned.report.anchors == (limit or 1000)
    assert learned.state.prototypes.shape == (1002, 32)


def test_old_prototypes_move_only_when_transfer_is_on(tiny_backbone: Backbone, first: LearnerState) -> None:
    moved = learn(tiny_backbone, first, task_of(["blue", "black"])).state.prototypes[:2]
    still = learn(
        tiny_backbone, first, task_of(["blue", "black"]), FAST.model_copy(update={"transfer_prototypes": False})
    ).state.prototypes[:2]
    assert torch.equal(still, first.prototypes)
    assert not torch.equal(moved, first.prototypes)


def test_prototypes_and_covariance_move_together_by_the_drift_map(
    tiny_backbone: Backbone, first: LearnerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[ClassSums] = []

    def spied(session: Session, inputs: Inputs, old: ClassSums) -> Gathered:
        moved.append(old)
        return gather(session, inputs, old)

    monkeypatch.setattr(segp, "gather", spied)
    task = task_of(["blue", "black"])
    for ridge in (None, 1.0, 1e6):
        learn(tiny_backbone, first, task, FAST.model_copy(update={"drift_ridge": ridge}))
    kept, (paper, mapped, held) = first.kept_sums, moved
    assert kept.scatter is not None
    assert paper.scatter is kept.scatter

    def change(sums: ClassSums) -> tuple[float, float]:
        assert sums.scatter is not None
        assert kept.scatter is not None
        of_scatter, of_sums = sums.scatter - kept.scatter, sums.sums - kept.sums
        return float(of_scatter.norm() / kept.scatter.norm()), float(of_sums.norm() / kept.sums.norm())

    assert min(change(mapped)) > 1e-3
    assert change(held)[1] < 1e-5  # a ridge without bound holds the means where they were
    assert held.scatter is not None
    assert held.scatter.trace() > kept.scatter.trace()  # and all drift counts as noise


def test_the_drift_map_predicts_old_classes_better_than_leaving_them(
    tiny_backbone: Backbone, first: LearnerState
) -> None:
    """The images of the old classes, which the update does not see, say where their means went."""
    old = task_of(["red", "green"])

    def gap(ridge: float | None, *, transfer: bool) -> float:
        config = FAST.model_copy(
            update={"drift_ridge": ridge, "transfer_prototypes": transfer, "min_anchors": 12, "epochs": 4}
        )
        state = learn(tiny_backbone, first, task_of(["blue", "black"]), config).state
        raw = tiny_backbone.with_lora(state.lora).raw_features(old.images.pixels(range(12)) / 255)
        now = class_means([(raw, torch.tensor(old.images.labels))], classes=2)
        return float((state.prototypes[:2] - now).norm(dim=1).mean())

    assert gap(0.1, transfer=True) < 0.8 * gap(None, transfer=False)


@pytest.mark.parametrize(
    ("update", "made"),
    [
        ({}, True),
        ({"lambda_acgd": 0.0}, True),  # the drift of what is kept needs them
        ({"transfer_prototypes": False}, True),  # ACGD needs them
        ({"image_rate": 0.0}, True),
        ({"lambda_acgd": 0.0, "transfer_prototypes": False}, False),
        ({"lambda_acgd": 0.0, "image_rate": 0.0}, False),
    ],
)
def test_anchors_are_made_only_where_something_reads_them(
    tiny_backbone: Backbone, first: LearnerState, update: dict[str, Any], made: bool
) -> None:
    learned = learn(tiny_backbone, first, task_of(["blue", "black"]), FAST.model_copy(update=update))
    assert learned.report.anchors == (4 if made else 0)


def test_acgd_holds_the_old_distribution(tiny_backbone: Backbone, first: LearnerState) -> None:
    def final_divergence(lambda_acgd: float) -> float:
        config = FAST.model_copy(
            update={"epochs": 8, "lambda_acgd": lambda_acgd, "learning_rate": 0.01, "image_rate": 1.0}
        )
        return learn(tiny_backbone, first, task_of(["blue", "black"]), config).report.losses[-1]["acgd"]

    assert final_divergence(5.0) < 0.2 * final_divergence(0.0)


def test_the_teacher_is_asked_once(
    tiny_backbone: Backbone, first: LearnerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, ...]] = []

    def counted(image: Tensor, text: Tensor, **options: Any) -> Tensor:
        if not text.requires_grad:
            calls.append(tuple(image.shape))
        return acgd_logits(image, text, **options)

    monkeypatch.setattr(segp, "acgd_logits", counted)
    learn(tiny_backbone, first, task_of(["blue", "black"]))
    assert calls == [(4, 16)]


@pytest.mark.parametrize("anchors", [1, 2, 8])
def test_classes_that_a_step_leaves_out_stand_as_last_encoded(
    tiny_backbone: Backbone, first: LearnerState, monkeypatch: pytest.MonkeyPatch, anchors: int
) -> None:
    known = learn(tiny_backbone, first, task_of(["white", "black"])).state
    sampled: list[Tensor] = []
    seen: list[Tensor] = []

    def sampling(session: Any, anchor_classes: Tensor) -> Tensor:
        sampled.append(segp_sample(session, anchor_classes))
        drawn, of_anchors = set(sampled[-1].tolist()), set(anchor_classes.tolist())
        assert of_anchors <= drawn or drawn <= of_anchors  # the anchors' own come first
        return sampled[-1]

    def distilling(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
        assert student.shape == teacher.shape == (anchors, 4)  # over all old classes, whatever was sampled
        return acgd_loss(student, teacher, **options)

    def spy(student: Tensor, *args: Any, **options: Any) -> Tensor:
        seen.append(student.detach().clone())
        return tsgr_loss(student, *args, **options)

    segp_sample = segp.sampled_old_classes
    monkeypatch.setattr(segp, "sampled_old_classes", sampling)
    monkeypatch.setattr(segp, "acgd_loss", distilling)
    monkeypatch.setattr(segp, "tsgr_loss", spy)
    config = FAST.model_copy(update={"epochs": 4, "old_classes_per_step": 2, "anchor_batch_size": anchors})
    learn(tiny_backbone, known, task_of(["blue"]), config)

    assert {len(rows) for rows in sampled} == {2}
    # the teacher's texts come first: before any step has changed the tower, they are what it encodes
    assert torch.allclose(seen[0][:4], known.text_features, atol=FLOAT32_REORDERED)
    left_out = [row for row in range(4) if row not in sampled[0].tolist()]
    assert torch.equal(seen[0][left_out], known.text_features[left_out])
    for before, after, rows in zip(seen, seen[1:], sampled[1:], strict=False):
        same_as_before = [row for row in range(5) if torch.equal(after[row], before[row])]
        assert same_as_before == [row for row in range(4) if row not in rows.tolist()]


def test_pretrained_text_is_that_of_the_untouched_tower(tiny_backbone: Backbone, first: LearnerState) -> None:
    """G^0 is the text tower with LoRA reset, whatever the tasks before have trained."""
    assert first.lora is not None
    seen: list[Tensor] = []
    original = tsgr_loss

    def spy(student: Tensor, pretrained: Tensor, *args: Any, **options: Any) -> Tensor:
        seen.append(pretrained)
        return original(student, pretrained, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segp, "tsgr_loss", spy)
        learn(tiny_backbone, first, task_of(["blue", "black"]))
    prompts = [f"a photo of a {name}." for name in ("red", "green", "blue", "black")]
    assert torch.allclose(seen[0], tiny_backbone.text_features(prompts), atol=FLOAT32_REORDERED)


def test_bfloat16_autocast_stays_close_to_float32(tiny_backbone: Backbone, first: LearnerState) -> None:
    exact = learn(tiny_backbone, first, task_of(["blue", "black"])).state
    half = learn(tiny_backbone, first, task_of(["blue", "black"]), dtype=torch.bfloat16).state
    assert (exact.prototypes - half.prototypes).abs().max() < 0.05
    assert half.prototypes.dtype == torch.float32


def test_the_order_of_labels_follows_the_task(tiny_backbone: Backbone) -> None:
    images = TensorImages(torch.cat([coloured("blue", 2, 0), coloured("red", 2, 0)]), [1, 1, 0, 0])
    task = Task("t", (TaskClass("red", "red"), TaskClass("blue", "blue")), images)
    config = FAST.model_copy(update={"strategy": "prototypes"})
    state = learn(tiny_backbone, initial_state(tiny_backbone), task, config).state
    assert Classifier(tiny_backbone, state).scores(coloured("blue", 1, 9)).visual.argmax() == 1


class EndlessImages:
    """Images made when asked for; remembers how many were ever asked for at once."""

    def __init__(self, count: int) -> None:
        self.labels = [i % 2 for i in range(count)]
        self.largest = 0

    def pixels(self, indices: Sequence[int]) -> Tensor:
        self.largest = max(self.largest, len(indices))
        return torch.cat([coloured(("red", "green")[self.labels[i]], 1, i) for i in indices])


def test_images_are_read_a_batch_at_a_time(tiny_backbone: Backbone, first: LearnerState) -> None:
    images = EndlessImages(200)
    task = Task("many", (TaskClass("blue", "blue"), TaskClass("black", "black")), images)
    config = FAST.model_copy(update={"epochs": 1, "feature_batch_size": 16, "dpgd_batch_size": 3})
    learn(tiny_backbone, first, task, config)
    assert images.largest == 16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_learns_the_same(tiny_spec: ModelSpec, tiny_backbone: Backbone, first: LearnerState) -> None:
    generator = torch.Generator().manual_seed(0)
    task = task_of(["blue", "black"])
    on_gpu = learn_task(first, task, config=FAST, generator=generator, device="cuda").state
    on_cpu = learn(tiny_backbone, first, task).state
    assert on_gpu.prototypes.device.type == "cpu"
    assert torch.allclose(on_gpu.prototypes, on_cpu.prototypes, atol=1e-2)


def broken(names: list[str], labels: list[int]) -> Task:
    classes = tuple(TaskClass(name, name) for name in names)
    return Task("broken", classes, TensorImages(torch.zeros(len(labels), 3, 32, 32, dtype=torch.uint8), labels))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (broken([], []), "has no classes"),
        (broken(["a", "a"], [0, 1]), "more than once"),
        (broken(["a", "b"], [0, 0]), "'b' has no images"),
        (broken(["a"], [0, 1]), "label 1"),
    ],
)
def test_a_task_that_cannot_be_learned_says_why(tiny_backbone: Backbone, task: Task, message: str) -> None:
    with pytest.raises(InvalidTaskError, match=message):
        learn(tiny_backbone, initial_state(tiny_backbone), task)


def test_a_later_task_cannot_change_the_adapters_rank(tiny_backbone: Backbone, first: LearnerState) -> None:
    with pytest.raises(InvalidTaskError, match="rank was set to 4"):
        learn(tiny_backbone, first, task_of(["blue"]), FAST.model_copy(update={"rank": 8}))
    unsaid = LearnerConfig(epochs=1, k_adv=1, k_seed=1)
    assert learn(tiny_backbone, first, task_of(["blue"]), unsaid).report.settings["rank"] == 4


def test_a_state_of_other_weights_is_refused(tiny_backbone: Backbone) -> None:
    state = replace(initial_state(tiny_backbone), weights_digest="0" * 64)
    with pytest.raises(IncompatibleStateError, match="000000000000"):
        learn(tiny_backbone, state, task_of(["red"]))


def test_the_model_is_loaded_by_its_name_when_none_is_given(tiny_backbone: Backbone, first: LearnerState) -> None:
    generator = torch.Generator().manual_seed(0)
    loaded = learn_task(first, task_of(["blue"]), config=FAST, generator=generator)
    assert same(loaded.state, learn(tiny_backbone, first, task_of(["blue"])).state)


@pytest.mark.parametrize("template", ["", "   ", "a photo", "a {name}"])
def test_a_template_without_a_place_for_the_name_is_refused(template: str) -> None:
    with pytest.raises(InvalidTaskError, match="template"):
        as_prompt(template, "cat")


def test_names_are_shown_to_the_text_tower_as_words() -> None:
    assert as_prompt("a photo of a {}.", "ceiling_fan") == "a photo of a ceiling fan."
