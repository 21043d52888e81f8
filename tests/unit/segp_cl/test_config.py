"""Defaults that follow from the model."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from segp_cl.config import LearnerConfig, ModelSettings


def test_at_clips_own_scale() -> None:
    resolved = LearnerConfig().resolve(100.0)
    assert resolved.lambda_acgd == pytest.approx(5.0)
    assert resolved.fusion_weight == pytest.approx(5.0)
    assert resolved.tau_adv == pytest.approx(0.01)


def test_at_a_fifth_of_the_scale_they_follow() -> None:
    resolved = LearnerConfig().resolve(20.0)
    assert resolved.lambda_acgd == 5.0
    assert resolved.fusion_weight == pytest.approx(25.0)
    assert resolved.learning_rate == pytest.approx(5e-4)


def test_a_model_may_bring_settings_of_its_own() -> None:
    own = ModelSettings(learning_rate=0.02, image_rate=0.1, fusion_weight=5.0, fusion_half_images=9.0)
    resolved = LearnerConfig().resolve(20.0, own)
    assert resolved.fusion_half_images == 9.0
    assert (resolved.learning_rate, resolved.image_rate, resolved.fusion_weight) == (0.02, 0.1, 5.0)
    assert LearnerConfig(fusion_weight=1.0).resolve(20.0, own).fusion_weight == 1.0


def test_what_is_set_stays() -> None:
    config = LearnerConfig(
        lambda_acgd=1.0, fusion_weight=0.0, learning_rate=0.1, image_rate=0.0, tau_adv=0.2, fusion_half_images=1.0
    )
    assert config.resolve(20.0).model_dump() == config.model_dump()


@pytest.mark.parametrize("override", [{"epochs": 0}, {"no_such_setting": 1}, {"rank": -1}, {"strategy": "magic"}])
def test_a_bad_override_is_refused_by_name(override: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(override))):
        LearnerConfig.model_validate(override)


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in LearnerConfig.model_fields.items() if not field.description] == []


NUMBERS = [
    name
    for name, field in LearnerConfig.model_fields.items()
    if field.annotation in (int, float, int | None, float | None)
]
BEYOND = [float("inf"), float("-inf"), float("nan"), 1e300, 10**12, 10**400, -1, "1e999", "5", True, [5], {}, ""]


@pytest.mark.parametrize("value", BEYOND, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_is_without_an_end(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        LearnerConfig.model_validate({name: value})


def test_every_number_says_its_bounds_in_the_schema() -> None:
    for name in NUMBERS:
        field = LearnerConfig.model_json_schema()["properties"][name]
        kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
        assert all({"maximum", "exclusiveMaximum"} & kind.keys() for kind in kinds), name


def test_the_bounds_leave_room_for_the_paper_and_for_every_default() -> None:
    paper = {"rank": 32, "batch_size": 128, "epochs": 10, "k_seed": 5, "k_adv": 10, "max_anchors": None}
    assert LearnerConfig.model_validate(LearnerConfig().model_dump() | paper).rank == 32
    assert LearnerConfig(learning_rate=1, lambda_p=1).learning_rate == 1.0


def test_a_preset_lies_below_what_is_set_besides() -> None:
    paper = LearnerConfig.model_validate({"preset": "paper", "epochs": 3, "max_anchors": 7})
    stated = {
        "optimizer": "sgd", "learning_rate": 0.001, "rank": 32, "batch_size": 128, "k_seed": 5, "k_adv": 10,
        "step_size_pixels": 0.0015, "fusion_weight": 0.5, "old_classes_per_step": None, "whiten": False,
        "align_steps": 0, "epochs": 3, "max_anchors": 7,
    }  # fmt: skip
    assert {name: getattr(paper, name) for name in stated} == stated
    own = ModelSettings(learning_rate=6e-3, image_rate=0.0, fusion_weight=128.0, fusion_half_images=64.0)
    resolved = paper.resolve(20.0, own)
    assert (resolved.preset, resolved.learning_rate, resolved.image_rate, resolved.fusion_weight) == (
        "paper", 0.001, 1.0, 0.5,
    )  # fmt: skip
    assert LearnerConfig.model_validate(resolved.model_dump()) == LearnerConfig(**resolved.model_dump())
    assert LearnerConfig().preset is None


def test_a_preset_trains_the_image_tower_too() -> None:
    own = ModelSettings(learning_rate=6e-3, image_rate=0.0)
    moving = LearnerConfig.model_validate({"preset": "moving", "epochs": 3}).resolve(20.0, own)
    assert (moving.preset, moving.strategy, moving.epochs) == ("moving", "segp", 3)
    assert (moving.image_rate, moving.lora_image_fraction) == (0.1, 0.5)
    assert moving.learning_rate == 6e-3


@pytest.mark.parametrize("preset", ["papers", ["paper"], {"paper": 1}, 5])
def test_a_preset_that_does_not_exist_is_refused(preset: object) -> None:
    with pytest.raises(ValidationError, match="preset"):
        LearnerConfig.model_validate({"preset": preset})
