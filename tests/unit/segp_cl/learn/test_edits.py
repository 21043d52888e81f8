"""Edits of a state's classes, held against states that were taught so from the start."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from segp_cl.class_edits import ClassEdit
from segp_cl.errors import ClassExistsError, ClassNotFoundError
from segp_cl.learn.edits import edit_classes, is_exact, restored
from segp_cl.learn.learner import initial_state
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.types import Learned, LearnerState
from tests.tolerances import FLOAT32_REORDERED, FLOAT64_REORDERED
from tests.unit.segp_cl.learn.test_learner import FAST, coloured, learn, task_of

UNTRAINED = FAST.model_copy(update={"strategy": "prototypes", "keep_class_scatter": True, "fusion_weight": 4.0})
TRAINED = FAST.model_copy(update={"image_rate": 0.0})
SWAP = ClassEdit(kind="swap", classes=("red", "blue"))
DELETE = ClassEdit(kind="delete", classes=("blue",))
MERGE = ClassEdit(kind="merge", classes=("red", "blue"), name="warm", prompt="a photo of a warm.")


def edited(backbone: Backbone, state: LearnerState, edit: ClassEdit) -> Learned:
    return edit_classes(
        state,
        edit,
        backbone=backbone,
        config=FAST,
        generator=torch.Generator().manual_seed(0),
        norm=torch.tensor(1.0),
    )


@pytest.fixture
def taught(tiny_backbone: Backbone) -> LearnerState:
    task = task_of(["red", "green", "blue"], 12)
    return learn(tiny_backbone, initial_state(tiny_backbone), task, UNTRAINED).state


@pytest.fixture(scope="module")
def trained(tiny_backbone: Backbone) -> LearnerState:
    task = task_of(["red", "green", "blue"], 12)
    return learn(tiny_backbone, initial_state(tiny_backbone), task, TRAINED).state


def assert_same_sums(one: LearnerState, other: LearnerState) -> None:
    mine, theirs = one.kept_sums, other.kept_sums
    assert torch.equal(mine.counts, theirs.counts)
    assert torch.allclose(mine.sums, theirs.sums, atol=FLOAT64_REORDERED)
    assert mine.scatter is not None
    assert theirs.scatter is not None
    assert torch.allclose(mine.scatter, theirs.scatter, atol=FLOAT64_REORDERED)


def test_a_class_that_was_deleted_is_as_if_it_had_never_been_there(
    tiny_backbone: Backbone, taught: LearnerState
) -> None:
    never = learn(tiny_backbone, initial_state(tiny_backbone), task_of(["red", "green"], 12), UNTRAINED).state
    assert is_exact(taught, DELETE)
    left = edited(tiny_backbone, taught, DELETE).state
    assert left.class_names == ("red", "green")
    assert_same_sums(left, never)
    pixels = coloured("red", 6, 99)
    one, other = (Classifier(tiny_backbone, state).scores(pixels) for state in (left, never))
    assert torch.allclose(one.visual, other.visual, atol=FLOAT32_REORDERED)
    assert torch.allclose(one.text, other.text, atol=FLOAT32_REORDERED)
    assert torch.allclose(one.fused, other.fused, atol=10 * FLOAT32_REORDERED)  # of the visual path, four times


def test_and_taught_again_it_is_as_if_it_had_been_taught_once(tiny_backbone: Backbone, taught: LearnerState) -> None:
    left = edited(tiny_backbone, taught, DELETE).state
    task = task_of(["blue"], 12, seed=50)
    again = learn(tiny_backbone, left, task, UNTRAINED).state
    never = learn(tiny_backbone, initial_state(tiny_backbone), task_of(["red", "green"], 12), UNTRAINED).state
    once = learn(tiny_backbone, never, task, UNTRAINED).state
    assert again.class_names == once.class_names
    assert_same_sums(again, once)
    pixels = torch.cat([coloured(name, 3, 99) for name in ("red", "green", "blue")])
    one, other = (Classifier(tiny_backbone, state).scores(pixels) for state in (again, once))
    assert torch.allclose(one.visual, other.visual, atol=FLOAT32_REORDERED)


def test_where_its_own_scatter_was_not_kept_that_is_said(tiny_backbone: Backbone, taught: LearnerState) -> None:
    sums = taught.kept_sums
    plain = replace(taught, sums=replace(sums, own=None))
    assert not is_exact(plain, DELETE)
    assert is_exact(plain, MERGE)
    assert is_exact(plain, SWAP)
    assert not is_exact(replace(taught, sums=None), MERGE)
    left = edited(tiny_backbone, plain, DELETE).state
    assert left.sums is not None
    assert sums.scatter is not None
    assert left.sums.scatter is not None
    assert torch.allclose(left.sums.scatter, sums.scatter * 2 / 3)


def test_merged_classes_are_as_if_they_had_been_taught_as_one(tiny_backbone: Backbone, taught: LearnerState) -> None:
    merged = edited(tiny_backbone, taught, MERGE).state
    assert merged.class_names == ("warm", "green")
    assert [known.images for known in merged.classes] == [24, 12]
    pixels = {"warm": torch.cat([coloured("red", 12, 0), coloured("blue", 12, 2)]), "green": coloured("green", 12, 1)}
    sums = merged.kept_sums
    features = {name: tiny_backbone.raw_features(images / 255).double() for name, images in pixels.items()}
    for row, name in enumerate(merged.class_names):
        unit = torch.nn.functional.normalize(features[name], dim=-1)
        assert torch.allclose(sums.sums[row], unit.sum(dim=0), atol=FLOAT32_REORDERED)
    assert torch.allclose(
        merged.text_features[0], tiny_backbone.text_features([MERGE.prompt or ""])[0], atol=FLOAT32_REORDERED
    )
    assert torch.equal(merged.text_features[1], taught.text_features[1])
    # named before the class whose place it takes
    other = MERGE.model_copy(update={"classes": ("blue", "red"), "name": "blue"})
    assert edited(tiny_backbone, taught, other).state.class_names == ("blue", "green")


def test_swapped_names_are_the_other_s_answers(tiny_backbone: Backbone, taught: LearnerState) -> None:
    swapped = edited(tiny_backbone, taught, SWAP).state
    assert swapped.class_names == ("blue", "green", "red")
    assert [known.prompt for known in swapped.classes] == [f"a photo of a {name}." for name in swapped.class_names]
    assert torch.equal(swapped.prototypes, taught.prototypes)
    assert torch.equal(swapped.text_features, taught.text_features[[2, 1, 0]])
    assert edited(tiny_backbone, swapped, SWAP).state.classes == taught.classes


def test_two_classes_that_were_taught_under_each_other_s_names_are_mended(tiny_backbone: Backbone) -> None:
    wrong = task_of(["red", "green", "blue"], 12)
    labels = [2 - label for label in wrong.images.labels]
    images = type(wrong.images)(wrong.images.pixels(range(36)), labels)  # type: ignore[call-arg]
    state = learn(tiny_backbone, initial_state(tiny_backbone), replace(wrong, images=images), TRAINED).state
    pixels, truth = torch.cat([coloured(name, 6, 99) for name in ("red", "blue")]), ["red"] * 6 + ["blue"] * 6

    def right(of: LearnerState) -> int:
        answers = Classifier(tiny_backbone, of).scores(pixels).fused.argmax(dim=1).tolist()
        return sum(of.class_names[row] == name for row, name in zip(answers, truth, strict=True))

    assert right(state) <= 2
    assert right(edited(tiny_backbone, state, SWAP).state) >= 10


def test_a_rename_changes_names_and_the_text_alone(tiny_backbone: Backbone, trained: LearnerState) -> None:
    plain = edited(tiny_backbone, trained, ClassEdit(kind="rename", classes=("red",), name="scarlet"))
    assert plain.report.steps == 0
    assert plain.state == replace(trained, classes=plain.state.classes)
    assert plain.state.classes[0] == replace(trained.classes[0], name="scarlet")

    edit = ClassEdit(kind="rename", classes=("red",), name="scarlet", prompt="a photo of a scarlet.")
    renamed = edited(tiny_backbone, trained, edit).state
    assert torch.equal(renamed.text_features[1:], trained.text_features[1:])
    assert not torch.equal(renamed.text_features[0], trained.text_features[0])
    assert renamed.sums is trained.sums
    assert renamed.lora is not None
    assert trained.lora is not None
    assert renamed.lora.factors.keys() == trained.lora.factors.keys()
    answers = Classifier(tiny_backbone, renamed).scores(coloured("red", 6, 99)).fused.argmax(dim=1)
    assert (answers == 0).float().mean() >= 0.8


def test_the_weight_of_the_visual_path_follows_the_images(tiny_backbone: Backbone) -> None:
    config = FAST.model_copy(update={"strategy": "prototypes"})
    few = learn(tiny_backbone, initial_state(tiny_backbone), task_of(["red", "green"], 4), config).state
    both = learn(tiny_backbone, few, task_of(["blue", "white"], 24), config).state
    left = both
    for name in ("red", "green"):
        left = edited(tiny_backbone, left, ClassEdit(kind="delete", classes=(name,))).state
    assert left.fusion_weight > both.fusion_weight
    swapped = edited(tiny_backbone, both, ClassEdit(kind="swap", classes=("red", "white"))).state
    assert swapped.fusion_weight == both.fusion_weight


def test_the_last_class_can_go_and_the_state_is_taught_on(tiny_backbone: Backbone, taught: LearnerState) -> None:
    left = taught
    for name in ("blue", "red", "green"):
        left = edited(tiny_backbone, left, ClassEdit(kind="delete", classes=(name,))).state
    assert (left.classes, left.sums, left.held_out, left.covariance) == ((), None, None, None)
    assert left.prototypes.shape == (0, taught.prototypes.shape[1])
    again = learn(tiny_backbone, left, task_of(["black", "white"], 8), UNTRAINED).state
    assert again.class_names == ("black", "white")


def test_a_replaced_class_is_put_back_as_another_state_knows_it(tiny_backbone: Backbone, taught: LearnerState) -> None:
    left = edited(tiny_backbone, taught, DELETE).state
    back = restored(left, taught.classes[2], taught)
    assert back.class_names == taught.class_names
    assert_same_sums(back, taught)
    assert torch.equal(back.text_features, taught.text_features)


def test_what_is_not_there_or_there_already_is_refused(tiny_backbone: Backbone, taught: LearnerState) -> None:
    with pytest.raises(ClassNotFoundError):
        edited(tiny_backbone, taught, ClassEdit(kind="delete", classes=("pink",)))
    with pytest.raises(ClassExistsError):
        edited(tiny_backbone, taught, ClassEdit(kind="rename", classes=("red",), name="blue"))
