"""Every check of the gate, on plain numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from exchange.contracts import GateCheck
from model_store.gate import GatePolicy
from worker.gate import CHECKS, Answers, Evidence, OnSet, Pairs, judge, lower_end, upper_end

POLICY = GatePolicy()


def answers(*by_class: tuple[int, int], distinct: int = 5, top: float = 0.9, not_finite: int = 0) -> Answers:
    """Answers with (images, right) of each class."""
    counts = {f"c{number}": counts for number, counts in enumerate(by_class)}
    return Answers(by_class=counts, distinct=distinct, top_probability=top, not_finite=not_finite)


SOUND = Evidence(
    seen_classes=10,
    held_out=answers((20, 19), (20, 17), (20, 18)),
    kept=answers(*[(16, 15)] * 7),
    kept_before=answers(*[(16, 16)] * 7),
)


def on_set(*by_class: Pairs, name: str = "field") -> OnSet:
    """Answers to a test set, of each class beside those of the parent."""
    return OnSet(name, {f"c{number}": pairs for number, pairs in enumerate(by_class)})


def check(name: str, evidence: Evidence, policy: GatePolicy = POLICY) -> GateCheck:
    return CHECKS[name](policy, evidence)


def test_a_sound_version_passes_every_check() -> None:
    result = judge(POLICY, SOUND)
    assert [check.name for check in result.checks] == list(CHECKS)
    made = [check for check in result.checks if check.name not in ("taught", "contradiction", "twin", "test_sets")]
    assert [check.passed for check in made] == [True] * 6
    assert result.held_because == ()


def test_every_check_has_its_switch_and_disabled_switches_off_all() -> None:
    ruined = Evidence(
        seen_classes=10,
        held_out=answers((60, 0), (60, 0), (60, 0), distinct=1, top=0.1, not_finite=3),
        taught=answers((9, 0)),
        known_before=answers((9, 1)),
        kept=answers((16, 0), (16, 0), (16, 0), distinct=1, top=0.1),
        kept_before=answers((16, 16), (16, 16), (16, 16)),
        golden_not_finite=2,
        twin_accuracy=0.9,
        test_sets=(on_set(Pairs(images=60, before=55, right=0, lost=55)),),
    )
    result = judge(POLICY, ruined)
    assert [check.name for check in result.checks if check.passed is False] == list(CHECKS)
    assert list(result.held_because) == [check.reason for check in result.checks]
    for name in CHECKS:
        without = judge(POLICY.changed({f"check_{name}": False}), ruined)
        assert [check.name for check in without.checks] == [other for other in CHECKS if other != name]
    off = judge(POLICY.changed({"enabled": False}), ruined)
    assert (off.enabled, off.checks, off.held_because) == (False, (), ())


def test_images_left_out_in_turn_are_compared_with_the_twin_alone_and_only_without_held_out_ones() -> None:
    left = Evidence(seen_classes=10, left_out=answers((30, 10)), twin_accuracy=0.9)
    found = check("twin", left)
    assert (found.passed, found.images) == (False, 30)
    assert found.reason.startswith("own classes: 10 of 30 images, left out in turn, are right, 90.0%")
    assert {name for name in CHECKS if check(name, left).passed is False} == {"twin"}
    assert check("twin", replace(left, held_out=answers((20, 19)))).passed is True


@pytest.mark.parametrize(
    ("right", "images", "confidence", "expected"),
    [
        (0, 1, 0.95, 0.95),  # by hand: 1 - 0.05 ** (1 / n)
        (0, 2, 0.95, 1 - math.sqrt(0.05)),
        (0, 50, 0.95, 1 - 0.05 ** (1 / 50)),
        (1, 2, 0.95, math.sqrt(0.95)),  # p with 1 - p ** 2 = 0.05
        (5, 5, 0.95, 1.0),
        (25, 50, 0.975, 0.644604),  # as tables have it
    ],
)
def test_the_upper_end_is_clopper_and_pearson_s(right: int, images: int, confidence: float, expected: float) -> None:
    assert upper_end(right, images, confidence) == pytest.approx(expected, abs=1e-3 if images == 50 else 1e-9)


def test_the_upper_end_falls_towards_the_figure_as_images_are_added() -> None:
    ends = [upper_end(n // 4, n, 0.95) for n in (4, 40, 400, 4000, 40_000)]
    assert ends == sorted(ends, reverse=True)
    assert 0.25 < ends[-1] < 0.26


@pytest.mark.parametrize(
    ("right", "images", "passed"),
    [(0, 2, True), (0, 20, False), (2, 40, False), (30, 40, True), (40, 200, True), (20, 200, False)],
)
def test_held_out_accuracy_is_held_when_it_is_surely_low(right: int, images: int, passed: bool) -> None:
    found = check("accuracy", replace(SOUND, held_out=answers((images, right))))
    assert found.passed is passed
    assert found.images == images
    assert found.bound == 0.2  # of ten classes, a tenth above chance is 0.19
    if not passed:
        assert f"{right} of {images} held-out images" in found.reason


def test_the_bound_of_the_accuracy_is_above_chance_however_few_classes_there_are() -> None:
    assert check("accuracy", replace(SOUND, seen_classes=2)).bound == pytest.approx(0.55)
    assert check("accuracy", replace(SOUND, seen_classes=1)).passed is None
    assert check("accuracy", replace(SOUND, held_out=Answers())).reason == "no images were held out"


@pytest.mark.parametrize(
    ("before", "after", "passed"),
    [
        ((14, 0), 11, False),  # as two classes that were taught under each other's names
        ((14, 0), 13, True),  # the correction was learned
        ((14, 6), 9, None),  # the version before was no worse than often right
        ((4, 0), 1, None),  # four images are wrong by bad luck
        ((0, 0), 14, None),
    ],
)
def test_contradicted_classes_are_held_unless_they_were_learned(
    before: tuple[int, int], after: int, passed: bool | None
) -> None:
    taught = answers((before[0] or 14, min(after, before[0] or 14)), (40, 0))  # the second class is new
    evidence = replace(SOUND, taught=taught, known_before=answers(before) if before[0] else Answers())
    found = check("contradiction", evidence)
    assert found.passed is passed
    assert bool(found.reason) is (passed is not True)
    if passed is False:
        assert "11 of 14 taught images are right, of which the version before had 0" in found.reason


def test_a_small_update_that_has_not_learned_its_own_images_is_held() -> None:
    small = replace(SOUND, held_out=answers((1, 0), (1, 0)), taught=answers((7, 1), (7, 0)))
    assert check("accuracy", small).passed is True  # two held-out images hold nothing
    found = check("taught", small)
    assert found.passed is False
    assert found.images == 16
    assert "1 of 16 images (14 taught, 2 held out)" in found.reason
    assert check("taught", replace(small, taught=answers((7, 6), (7, 4)))).passed is True
    assert check("taught", replace(small, taught=answers((1, 0), (1, 0)))).passed is True  # four images, by bad luck
    assert check("taught", SOUND).passed is None


def test_the_worst_class_is_judged_with_the_caution_that_its_images_ask_for() -> None:
    hopeless = replace(SOUND, held_out=answers((100, 90), (60, 1), (3, 0)))
    found = check("worst_class", hopeless)
    assert (found.passed, found.images) == (False, 60)
    assert found.reason.startswith("class 'c1': 1 of 60 held-out images are right")
    assert found.about == ("c1",)
    assert check("worst_class", replace(SOUND, held_out=answers((100, 90), (10, 0)))).passed is True
    few = check("worst_class", replace(SOUND, held_out=answers((4, 0), (4, 4))))
    assert (few.passed, few.reason) == (None, "no class has 5 held-out images")


def test_the_worst_of_many_classes_is_not_held_for_what_luck_explains() -> None:
    counts = (30, 0)
    alone = replace(SOUND, held_out=answers(counts))
    among = replace(SOUND, held_out=answers(counts, *[(30, 25)] * 99))
    assert check("worst_class", alone).passed is False
    assert check("worst_class", among).passed is True


@pytest.mark.parametrize(
    ("before", "after", "passed"),
    [(112, 112, True), (112, 80, True), (112, 40, False), (112, 0, False), (30, 20, True), (30, 4, False)],
)
def test_old_classes_may_lose_some_and_not_most(before: int, after: int, passed: bool) -> None:
    found = check("old_classes", replace(SOUND, kept=answers((112, after)), kept_before=answers((112, before))))
    assert found.passed is passed
    assert found.images == 112
    if not passed:
        assert f"{after} of 112 sampled features are right, {before} were before" in found.reason


@pytest.mark.parametrize(("before", "after", "passed"), [(112, 100, True), (112, 30, False), (20, 15, True)])
def test_a_ruined_text_path_is_found_though_the_visual_one_hides_it(before: int, after: int, passed: bool) -> None:
    kept, were = replace(SOUND.kept, text_right=after), replace(SOUND.kept_before, text_right=before)
    found = check("old_classes", replace(SOUND, kept=kept, kept_before=were))
    assert found.passed is passed
    assert ("by the text path" in found.reason) is not passed


def test_without_old_classes_nothing_can_be_lost() -> None:
    assert check("old_classes", replace(SOUND, kept=Answers(), kept_before=Answers())).passed is None


def test_a_single_score_or_golden_answer_that_is_not_finite_holds() -> None:
    assert check("finite", SOUND).passed is True
    one = check("finite", replace(SOUND, kept=answers(*[(16, 15)] * 7, not_finite=1)))
    assert (one.passed, one.value) == (False, 1.0)
    assert check("finite", replace(SOUND, golden_not_finite=1)).reason == "1 golden answers are not finite"


def test_one_answer_to_everything_holds_where_images_and_classes_are_enough() -> None:
    def one(*by_class: tuple[int, int]) -> Evidence:
        return replace(SOUND, held_out=answers(*by_class, distinct=1), kept=Answers())

    found = check("one_answer", one((4, 4), (4, 0), (4, 0)))
    assert (found.passed, found.images) == (False, 12)
    assert found.reason == "all 12 images of 3 classes get the same answer"
    assert check("one_answer", one((4, 4), (4, 0), (3, 0))).passed is None  # 11 images
    assert check("one_answer", one((6, 6), (6, 0))).passed is None  # 2 classes
    assert check("one_answer", one((60, 60), (2, 0), (2, 0))).passed is None  # it may well be right
    of_old = replace(SOUND, kept=answers(*[(16, 1)] * 7, distinct=1))
    assert "112 sampled features of old classes" in check("one_answer", of_old).reason


def test_probabilities_at_the_level_of_chance_hold() -> None:
    flat = check("flat", replace(SOUND, held_out=answers((20, 9), (20, 9), (20, 9), top=0.1)))
    assert flat.passed is False
    assert flat.reason == (
        "the mean top probability of 60 answers is 0.1000, with 10 classes at least 0.1010 is expected"
    )
    assert check("flat", replace(SOUND, held_out=answers((20, 9), (20, 9), (20, 9), top=0.12))).passed is True


def test_thresholds_are_the_policy_s() -> None:
    strict = POLICY.changed({"min_accuracy": 0.99, "max_drop": 0.0, "min_class_accuracy": 0.99})
    assert [c.name for c in judge(strict, SOUND).checks if c.passed is False] == [
        "accuracy",
        "worst_class",
        "old_classes",
    ]


def paired(images: int, before: int, lost: int, won: int = 0) -> Pairs:
    return Pairs(images=images, before=before, right=before - lost + won, lost=lost)


@pytest.mark.parametrize(
    ("pairs", "passed"),
    [
        (paired(200, 180, 10), True),
        (paired(200, 180, 40), True),  # 70 %, at most 75.3 %: not surely below 75 %
        (paired(200, 180, 42), False),
        (paired(200, 180, 42, won=20), True),  # what was won makes up for it
        (paired(4, 4, 4), True),  # four images are lost by luck once in sixteen
        (paired(5, 5, 5), False),
        (paired(2, 2, 2), True),
        (paired(50, 0, 0), True),
    ],
)
def test_a_test_set_holds_a_version_that_surely_lost_too_much(pairs: Pairs, passed: bool) -> None:
    policy = POLICY.changed({"max_test_set_flips": 1.0, "max_test_class_drop": 1.0})
    found = check("test_sets", replace(SOUND, test_sets=(on_set(pairs),)), policy)
    assert found.passed is passed
    assert found.images == pairs.images
    if not passed:
        assert found.reason.startswith(
            f"test set 'field': {pairs.right} of {pairs.images} images are right, {pairs.before} were before; "
            f"{pairs.lost} became wrong and {pairs.won} right"
        )


def test_right_answers_that_flip_hold_a_version_even_if_as_many_are_won() -> None:
    churned = replace(SOUND, test_sets=(on_set(paired(200, 100, 40, won=40)),))
    found = check("test_sets", churned)
    assert found.passed is False
    assert found.reason == (
        "test set 'field': of 100 right answers 40 became wrong, so the share is at least 31.8%; "
        "at most 25.0% is expected"
    )
    assert lower_end(40, 100, 0.95) == pytest.approx(0.3173, abs=1e-3)  # as tables have it
    assert check("test_sets", churned, POLICY.changed({"max_test_set_flips": 0.4})).passed is True


def test_one_class_that_a_test_set_shows_to_be_lost_holds_a_version() -> None:
    others = [paired(20, 19, 0)] * 9
    found = check("test_sets", replace(SOUND, test_sets=(on_set(*others, paired(20, 19, 19)),)))
    assert found.passed is False
    assert "class 'c9' of the test set 'field': 0 of 20 images are right, 19 were before" in found.reason
    few = POLICY.changed({"min_class_images": 21})
    assert check("test_sets", replace(SOUND, test_sets=(on_set(*others, paired(20, 19, 19)),)), few).passed is True


def test_the_level_is_shared_by_all_test_sets() -> None:
    """What one set alone shows is luck among twenty."""
    alone = on_set(paired(20, 20, 7))
    policy = POLICY.changed({"max_test_set_flips": 1.0, "max_test_class_drop": 1.0})
    quiet = [on_set(paired(20, 20, 0), name=f"quiet-{number}") for number in range(19)]
    assert check("test_sets", replace(SOUND, test_sets=(alone,)), policy).passed is False
    assert check("test_sets", replace(SOUND, test_sets=(alone, *quiet)), policy).passed is True


def test_every_set_that_holds_a_version_is_named_and_many_are_cut() -> None:
    lost = [on_set(paired(40, 40, 40), name=f"set-{number}") for number in range(4)]
    reason = check("test_sets", replace(SOUND, test_sets=tuple(lost))).reason
    assert "'set-0'" in reason
    assert reason.endswith("; and 7 more like these")


def test_test_sets_without_an_image_that_both_versions_know_are_not_judged() -> None:
    found = check("test_sets", replace(SOUND, test_sets=(on_set(),)))
    assert (found.passed, found.images) == (None, 0)
    assert check("test_sets", SOUND).passed is None
