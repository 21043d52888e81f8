"""Decides whether a version is promoted: small checks on plain numbers, by a policy.

`judge` is the whole gate. `worker.evidence` measures what it judges. Every check returns a `GateCheck`: passed, not
passed with its reason, or not judged with the reason for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Final

from scipy.stats import beta, binomtest

from exchange.contracts import GateCheck, GateResult
from model_store.gate import GatePolicy


@dataclass(frozen=True)
class Answers:
    """A version's answers by the fused path, among all its classes, in counts.

    Attributes:
        by_class: images and right answers of every true class.
        distinct: number of different classes that were answered.
        top_probability: mean probability of the best class, in [0, 1].
        not_finite: number of images with a score that is not finite.
        text_right: number of right answers by the text path; of old classes, among these alone.
    """

    by_class: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    distinct: int = 0
    top_probability: float = 0.0
    not_finite: int = 0
    text_right: int = 0

    @property
    def images(self) -> int:
        """The number of images, or of sampled features."""
        return sum(images for images, _ in self.by_class.values())

    @property
    def right(self) -> int:
        """The number of right answers."""
        return sum(right for _, right in self.by_class.values())

    def plus(self, other: Answers) -> Answers:
        """Return these and others, of which no class is in both."""
        images = max(1, self.images + other.images)
        top = self.images * self.top_probability + other.images * other.top_probability
        return Answers(
            by_class={**self.by_class, **other.by_class},
            distinct=max(self.distinct, other.distinct),
            top_probability=top / images,
            not_finite=self.not_finite + other.not_finite,
            text_right=self.text_right + other.text_right,
        )


NONE: Final = Answers()
_MOST_REASONS: Final = 5
ONE_CLASS: Final = "there is only one class, so every answer is right"


@dataclass(frozen=True)
class Pairs:
    """Answers of a version and of its parent to the same images, in counts.

    Attributes:
        images: how many images.
        before: right answers of the parent.
        right: right answers of the version.
        lost: images that the parent had right and the version has wrong.
    """

    images: int = 0
    before: int = 0
    right: int = 0
    lost: int = 0

    @property
    def won(self) -> int:
        """Images that the parent had wrong and the version has right."""
        return self.right - (self.before - self.lost)

    def plus(self, other: Pairs) -> Pairs:
        """Return these and others."""
        return Pairs(
            self.images + other.images, self.before + other.before, self.right + other.right, self.lost + other.lost
        )


@dataclass(frozen=True)
class OnSet:
    """Answers to the images of a test set whose labels both the version and its parent know, by class."""

    test_set: str
    by_class: Mapping[str, Pairs]

    @property
    def overall(self) -> Pairs:
        """Those of all classes."""
        return reduce(Pairs.plus, self.by_class.values(), Pairs())


@dataclass(frozen=True)
class Evidence:
    """What the gate knows about a version that was just learned.

    Attributes:
        seen_classes: number of classes that it answers with.
        held_out: answers to the held-out images of its task.
        left_out: answers to images of its task, of classes without held-out ones, each left out in turn.
        taught: answers to some images that it was taught with, if few are held out or its classes were known.
        kept: answers to features that are sampled from the parent's statistics of the old classes.
        kept_before: the parent's answers to the same features.
        known_before: the parent's answers to taught images of classes that it knew, if the update brings such images.
        golden_not_finite: number of golden answers that are not finite.
        twin_accuracy: accuracy of the instant version that this one is to replace, on the held-out images, or where
            there are none on those that were left out.
        test_sets: answers to every test set, beside those of the parent.
    """

    seen_classes: int
    held_out: Answers = NONE
    left_out: Answers = NONE
    taught: Answers = NONE
    kept: Answers = NONE
    kept_before: Answers = NONE
    known_before: Answers = NONE
    golden_not_finite: int = 0
    twin_accuracy: float | None = None
    test_sets: tuple[OnSet, ...] = ()


def judge(policy: GatePolicy, evidence: Evidence) -> GateResult:
    """Make all checks that the policy asks for. The version is held if one of them is not passed."""
    if not policy.enabled:
        return GateResult(enabled=False)
    checks = tuple(check(policy, evidence) for name, check in CHECKS.items() if getattr(policy, f"check_{name}"))
    return GateResult(checks=checks, held_because=tuple(check.reason for check in checks if check.passed is False))


def check_accuracy(policy: GatePolicy, evidence: Evidence) -> GateCheck:
    """Check that the accuracy on the held-out images of the update's own classes is well above chance."""
    images, right = evidence.held_out.images, evidence.held_out.right
    if evidence.seen_classes < 2:
        return _not_judged("accuracy", ONE_CLASS, images)
    if images == 0:
        return _not_judged("accuracy", "no images were held out", images)
    chance = 1 / evidence.seen_classes
    bound = max(policy.min_accuracy, chance + policy.min_above_chance * (1 - chance))
    return _accuracy_check(
        "accuracy",
        right,
        images,
        bound,
        policy.confidence,
        f"own classes: {right} of {images} held-out images are right",
    )


def check_taught(policy: GatePolicy, evidence: Evidence) -> GateCheck:
    """Check that a small update has learned its own images, those that it was taught with included.

    A few held-out images show nothing by themselves. On what it was taught a version does better than on other images,
    so one that has most of it wrong has not learned it: for example, classes that were taught under each other's names
    before.
    """
    held_out, taught = evidence.held_out, evidence.taught
    images, right = held_out.images + taught.images, held_out.right + taught.right
    if evidence.seen_classes < 2:
        return _not_judged("taught", ONE_CLASS, images)
    if taught.images == 0:
        return _not_judged("taught", f"{held_out.images} held-out images are enough", held_out.images)
    return _accuracy_check(
        "taught",
        right,
        images,
        policy.min_taught_accuracy,
        policy.confidence,
        f"own classes: {right} of {images} images ({taught.images} taught, {held_out.images} held out) are right",
    )


def check_contradiction(policy: GatePolicy, evidence: Evidence) -> GateCheck:
    """Check that images which contradict what a class was taught with before were learned all the same.

    A correction is sent because the version before was wrong. Where that has most of the new images of a known class
    wrong and this one still has many, the class stands for both: for example, two classes that were taught under each
    other's names.
    """
    before = evidence.known_before
    if before.images == 0:
        return _not_judged("contradiction", "no class was known before", 0)
    if upper_end(before.right, before.images, policy.confidence) >= 0.5:
        why = f"the version before has {before.right} of {before.images} taught images of known classes right"
        return _not_judged("contradiction", why, before.images)
    counts = [evidence.taught.by_class.get(name, (0, 0)) for name in before.by_class]
    images, right = sum(images for images, _ in counts), sum(right for _, right in counts)
    value = right / max(1, images)
    failed = value < policy.min_contradicted_accuracy
    reason = (
        f"known classes: {right} of {images} taught images are right, of which the version before had {before.right}; "
        f"they contradict what these classes were taught with, at least {policy.min_contradicted_accuracy:.1%} is "
        "expected"
        if failed
        else ""
    )
    return GateCheck(
        name="contradiction",
        passed=not failed,
        value=value,
        bound=policy.min_contradicted_accuracy,
        images=images,
        reason=reason,
    )


def check_twin(policy: GatePolicy, evidence: Evidence) -> GateCheck:
    """Check that training has not made the task's own images worse than its instant version, which is served.

    Held-out images alone count where there are some. Images that are left out in turn were trained on, so they favour
    the trained version: it is held only if it is worse all the same.
    """
    own, kind = evidence.held_out, "held-out images"
    if not own.images:
        own, kind = evidence.left_out, "images, left out in turn,"
    images, right, bound = own.images, own.right, evidence.twin_accuracy
    if bound is None or images == 0:
        return _not_judged("twin", "there is no instant version to compare with", images)
    return _accuracy_check(
        "twin",
        right,
        images,
        bound,
        policy.confidence,
        f"own classes: {right} of {images} {kind} are right, {bound:.1%} by the instant version",
    )


def check_worst_class(policy: GatePolicy, evidence: Evidence) -> GateCheck:
    """Check that no class has almost no right answer on its held-out images.

    The level is shared by all judged classes: the worst of many is bad by luck more often than one alone.
    """
    by_class = evidence.held_out.by_class
    judged = {name: counts for name, counts in by_class.items() if counts[0] >= policy.min_class_images}
    if not judged or evidence.seen_classes < 2:
        why = ONE_CLASS if judged else f"no class has {policy.min_class_images} held-out images"
        return _not_judged("worst_class", why, evidence.held_out.images)
    level = 1 - (1 - policy.confidence) / len(judged)
    name, (images, right) = min(judged.items(), key=lambda item: upper_end(item[1][1], item[1][0], level))
    return _accuracy_check(
        "worst_class",
        right,
        images,
        policy.min_class_accuracy,
        level,
        f"class {name!r}: {right} of {images} held-out images are right",
        about=(name,),
    )


def check_old_classes(policy: GatePolicy, evidence: Evidence) -> GateCheck:
    """Check that features of the old classes are still classified as the parent classified them.

    By the fused path, and by the text path among the old classes: it is served too, and where the image tower stands
    still, the visual path hides its ruin.
    """
    kept, before = evidence.kept, evidence.kept_before
    if kept.images == 0:
        return _not_judged("old_classes", "there are no old classes besides those of the update", 0)
    by_path = {
        "old classes": (kept.right, before.right),
        "old classes by the text path": (kept.text_right, before.text_right),
    }
    checks = []
    for whose, (right, were) in by_path.items():
        share = were / kept.images
        bound = max(share - policy.max_drop, share * policy.min_kept_share)
        found = f"{whose}: {right} of {kept.images} sampled features are right, {were} were before"
        checks.append(_accuracy_check("old_classes", right, kept.images, bound, policy.confidence, found))
    return next((found for found in checks if found.passed is False), checks[0])


def check_test_sets(policy: GatePolicy, evidence: Evidence) -> GateCheck:
    """Check that on no test set too many answers became wrong: in all, of one class, or of those that were right.

    An accuracy has fallen too far if the upper end of its interval is below the bound and, so that a handful of images
    holds nothing, more answers were lost than won by more than luck (one-sided sign test). The level is shared by all
    sets, and by all judged classes.
    """
    judged = [found for found in evidence.test_sets if found.overall.images]
    if not judged:
        return _not_judged("test_sets", "no test set has an image of a class that the version before knows", 0)
    checks = [
        found
        for on_set in judged
        for found in (
            _drop_check(
                f"test set {on_set.test_set!r}",
                on_set.overall,
                policy.max_test_set_drop,
                _shared(policy.confidence, len(judged)),
                about=(on_set.test_set,),
            ),
            _flips_check(on_set, policy.max_test_set_flips, _shared(policy.confidence, len(judged))),
        )
    ]
    classes = [
        (f"class {name!r} of the test set {on_set.test_set!r}", pairs, (name, on_set.test_set))
        for on_set in judged
        for name, pairs in on_set.by_class.items()
        if pairs.images >= policy.min_class_images
    ]
    level = _shared(policy.confidence, len(classes))
    checks += [
        _drop_check(whose, pairs, policy.max_test_class_drop, level, about=about) for whose, pairs, about in classes
    ]
    failed = [found for found in checks if found.passed is False]
    if not failed:
        made = [found for found in checks if found.passed]
        return min(made, key=lambda found: (found.upper or 0.0) - (found.bound or 0.0))
    reason = "; ".join(found.reason for found in failed[:_MOST_REASONS])
    if len(failed) > _MOST_REASONS:
        reason += f"; and {len(failed) - _MOST_REASONS} more like these"
    about = tuple(dict.fromkeys(name for found in failed[:_MOST_REASONS] for name in found.about))
    return failed[0].model_copy(update={"reason": reason, "about": about})


def check_finite(policy: GatePolicy, evidence: Evidence) -> GateCheck:
    """Check that no score and no golden answer is NaN or infinite."""
    measured = (evidence.held_out, evidence.taught, evidence.kept)
    images = sum(answers.images for answers in measured)
    wrong = sum(answers.not_finite for answers in measured)
    reasons = []
    if wrong:
        reasons.append(f"the scores of {wrong} of {images} images and sampled features are not finite")
    if evidence.golden_not_finite:
        reasons.append(f"{evidence.golden_not_finite} golden answers are not finite")
    value = float(wrong + evidence.golden_not_finite)
    return GateCheck(
        name="finite", passed=not reasons, value=value, bound=0.0, images=images, reason=" and ".join(reasons)
    )


def check_one_answer(policy: GatePolicy, evidence: Evidence) -> GateCheck:
    """Check that images of several classes, or features of several old ones, do not all get the same answer.

    Answers are judged only where the largest class has at most three quarters of the images.
    """
    judged = [answers for answers in _groups(evidence) if _varied(policy, answers)]
    if not judged:
        return _not_judged("one_answer", _too_few(policy), max(a.images for a in _groups(evidence)))
    worst = min(judged, key=lambda answers: answers.distinct)
    failed = worst.distinct <= 1
    what = "sampled features of old classes" if worst is evidence.kept else "images"
    reason = f"all {worst.images} {what} of {len(worst.by_class)} classes get the same answer" if failed else ""
    return GateCheck(
        name="one_answer",
        passed=not failed,
        value=float(worst.distinct),
        bound=2.0,
        images=worst.images,
        reason=reason,
    )


def check_flat(policy: GatePolicy, evidence: Evidence) -> GateCheck:
    """Check that the probabilities are not spread evenly over all classes."""
    judged = [answers for answers in _groups(evidence) if _varied(policy, answers)]
    if not judged:
        return _not_judged("flat", _too_few(policy), max(a.images for a in _groups(evidence)))
    worst = min(judged, key=lambda answers: answers.top_probability)
    bound = min(1.0, policy.min_top_probability / evidence.seen_classes)
    passed = worst.top_probability >= bound
    reason = (
        ""
        if passed
        else f"the mean top probability of {worst.images} answers is {worst.top_probability:.4f}, "
        f"with {evidence.seen_classes} classes at least {bound:.4f} is expected"
    )
    return GateCheck(
        name="flat", passed=passed, value=worst.top_probability, bound=bound, images=worst.images, reason=reason
    )


CHECKS: Final[Mapping[str, Callable[[GatePolicy, Evidence], GateCheck]]] = {
    "accuracy": check_accuracy,
    "taught": check_taught,
    "contradiction": check_contradiction,
    "twin": check_twin,
    "worst_class": check_worst_class,
    "old_classes": check_old_classes,
    "test_sets": check_test_sets,
    "finite": check_finite,
    "one_answer": check_one_answer,
    "flat": check_flat,
}
"""All checks by name; the policy's field `check_NAME` switches each."""


def upper_end(right: int, images: int, confidence: float) -> float:
    """Return the upper end of the one-sided Clopper-Pearson interval of an accuracy, in [0, 1].

    A version whose true accuracy is above it would do so badly with a chance of at most 1 - `confidence`.

    Args:
        right: right answers, at most `images`.
        images: at least 1.
        confidence: in (0, 1).
    """
    return 1.0 if right >= images else float(beta.ppf(confidence, right + 1, images - right))


def lower_end(right: int, images: int, confidence: float) -> float:
    """Return the lower end of the one-sided Clopper-Pearson interval of a share, in [0, 1]; see `upper_end`."""
    return 1 - upper_end(images - right, images, confidence)


def _shared(confidence: float, comparisons: int) -> float:
    """Return the level of each of several comparisons, so that all hold together at `confidence` (Bonferroni)."""
    return 1 - (1 - confidence) / max(1, comparisons)


def _drop_check(whose: str, pairs: Pairs, most: float, level: float, *, about: tuple[str, ...]) -> GateCheck:
    share = pairs.before / pairs.images
    found = (
        f"{whose}: {pairs.right} of {pairs.images} images are right, {pairs.before} were before; "
        f"{pairs.lost} became wrong and {pairs.won} right"
    )
    bound = max(0.0, share - most)
    check = _accuracy_check("test_sets", pairs.right, pairs.images, bound, level, found, about=about)
    if (
        check.passed is False
        and binomtest(pairs.lost, pairs.lost + pairs.won, alternative="greater").pvalue > 1 - level
    ):
        return check.model_copy(update={"passed": True, "reason": ""})
    return check


def _flips_check(on_set: OnSet, most: float, level: float) -> GateCheck:
    pairs = on_set.overall
    if not pairs.before:
        return _not_judged("test_sets", f"the version before has nothing right on {on_set.test_set!r}", pairs.images)
    kept = pairs.before - pairs.lost
    found = f"test set {on_set.test_set!r}: of {pairs.before} right answers {pairs.lost} became wrong"
    check = _accuracy_check("test_sets", kept, pairs.before, 1 - most, level, found, about=(on_set.test_set,))
    if check.passed is False:
        surely = lower_end(pairs.lost, pairs.before, level)
        reason = f"{found}, so the share is at least {surely:.1%}; at most {most:.1%} is expected"
        return check.model_copy(update={"reason": reason})
    return check


def _accuracy_check(
    name: str, right: int, images: int, bound: float, confidence: float, found: str, *, about: tuple[str, ...] = ()
) -> GateCheck:
    upper = upper_end(right, images, confidence)
    failed = upper < bound
    reason = f"{found}, so the accuracy is at most {upper:.1%}; at least {bound:.1%} is expected" if failed else ""
    return GateCheck(
        name=name,
        passed=not failed,
        value=right / images,
        upper=upper,
        bound=bound,
        images=images,
        reason=reason,
        about=about,
    )


def _not_judged(name: str, why: str, images: int) -> GateCheck:
    return GateCheck(name=name, passed=None, images=images, reason=why)


def _groups(evidence: Evidence) -> tuple[Answers, Answers]:
    """Return the answers to images, of which those held out suffice where they are enough, and to sampled features."""
    held_out, taught = evidence.held_out, evidence.taught
    return (held_out if held_out.images >= taught.images else taught), evidence.kept


def _varied(policy: GatePolicy, answers: Answers) -> bool:
    if answers.images < policy.min_answers or len(answers.by_class) < policy.min_answer_classes:
        return False
    return 4 * max(images for images, _ in answers.by_class.values()) <= 3 * answers.images


def _too_few(policy: GatePolicy) -> str:
    return f"there are fewer than {policy.min_answers} answers, or about fewer than {policy.min_answer_classes} classes"
