"""Judges a version before it is published: its evaluation, its golden answers, and the gate's result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from exchange.contracts import Evaluation, GateResult
from exchange.spool import SpoolIndex
from model_store.gate import GatePolicy
from model_store.types import Manifest
from segp_cl.data.held_out import Split
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.golden import GoldenAnswers, record
from segp_cl.types import LearnerState
from worker.evaluation import Answered, answered, evaluation_of
from worker.evidence import OldClasses, Tally, evenly, not_finite
from worker.gate import NONE, Answers, Evidence, judge
from worker.left_out import leave_one_out
from worker.on_test_sets import NOTHING, Found
from worker.seen import Seen

_IMAGES_FOR_THE_DRIFT = 32


@dataclass(frozen=True)
class Judgement:
    """What was found. `golden` is None if some of it is not finite: it cannot be stored, and the version is held."""

    evaluation: Evaluation | None
    golden: GoldenAnswers | None
    gate: GateResult
    test_sets: Found = NOTHING


@dataclass(frozen=True)
class Judge:
    """Measures versions on the images of one task.

    Attributes:
        policy: the gate's.
        base: the base model.
        index: the task's images and classes.
        split: which of the images were learned from.
        left_out: those of them that are measured with the version's statistics of the others.
        seen: all of the images, in the order of `index`.
        batch_size: images per pass.
        on_batch: called with (batches done, batches in all) after each.
        on_test_sets: measures the new version on the test sets.
    """

    policy: GatePolicy
    base: Backbone
    index: SpoolIndex
    split: Split
    left_out: tuple[int, ...]
    seen: Seen
    batch_size: int
    on_batch: Callable[[int, int], None]
    on_test_sets: Callable[[Classifier], Found] = lambda classifier: NOTHING

    def judge(
        self,
        old: LearnerState,
        new: LearnerState,
        *,
        twin: Manifest | None = None,
        parent: Classifier | None = None,
        classifier: Classifier | None = None,
    ) -> Judgement:
        """Measure a new version, record its golden answers, and have the gate decide on both.

        Args:
            old: the state that it was learned on.
            new: its state.
            twin: the instant version of the same task, on the same parent, that it is to replace.
            parent: the classifier of `old`, if there is one already.
            classifier: that of `new`, likewise.
        """
        policy, index, split = self.policy, self.index, self.split
        few = policy.enabled and policy.check_taught and len(split.held_out) < policy.few_images
        again = policy.enabled and policy.check_contradiction and bool(set(old.class_names) & set(index.classes))
        taught = evenly(index.labels, split.train) if few or again else ()
        known = tuple(at for at in taught if again and index.classes[index.labels[at]] in old.class_names)
        others = bool(set(old.class_names) - set(index.classes))
        if parent is None and (known or others):
            parent = Classifier(self.base, old)
        kept = None
        if parent is not None and others and policy.enabled and policy.check_old_classes:
            few_images = evenly(index.labels, split.train, _IMAGES_FOR_THE_DRIFT)
            kept = OldClasses(parent, self.seen.part(few_images), but=index.classes)
        if classifier is None:
            classifier = Classifier(self.base, new)
        held_out, held_out_answers = self._measure(classifier, split.held_out)
        evaluation = self._evaluation(classifier, held_out)
        _, taught_answers = self._measure(classifier, taught)
        _, known_before = (None, NONE) if parent is None else self._measure(parent, known)
        test_sets = self.on_test_sets(classifier)
        golden = record(classifier, self.base.preprocessing.size)
        unusable = not_finite(golden)
        evidence = Evidence(
            seen_classes=len(new.classes),
            held_out=held_out_answers,
            left_out=NONE if evaluation is None else Answers(by_class=evaluation.fused("left_one_out")[0]),
            taught=taught_answers,
            kept=NONE if kept is None else kept.after(classifier),
            kept_before=NONE if kept is None else kept.answers_before,
            known_before=known_before,
            golden_not_finite=unusable,
            twin_accuracy=_accuracy_of(twin, seen_classes=len(new.classes)),
            test_sets=test_sets.evidence,
        )
        return Judgement(evaluation, None if unusable else golden, judge(policy, evidence), test_sets)

    def _evaluation(self, classifier: Classifier, held_out: Answered | None) -> Evaluation | None:
        """Return the accuracies on held-out images, and of classes without any on their own, left out in turn."""
        measured = [] if held_out is None else [held_out]
        if self.left_out:
            measured.append(
                leave_one_out(
                    classifier,
                    self.seen.part(self.left_out),
                    classes=self.index.classes,
                    batch_size=self.batch_size,
                    on_batch=self.on_batch,
                )
            )
        labels = {self.index.labels[position] for position in (*self.split.held_out, *self.left_out)}
        return evaluation_of(
            classifier.state.class_names, measured, classes_not_measured=len(self.index.classes) - len(labels)
        )

    def _measure(self, classifier: Classifier, chosen: tuple[int, ...]) -> tuple[Answered | None, Answers]:
        if not chosen:
            return None, NONE
        tally = Tally(classifier)
        found = answered(
            classifier,
            self.seen.part(chosen),
            classes=self.index.classes,
            batch_size=self.batch_size,
            on_batch=self.on_batch,
            on_scores=tally.add,
        )
        return found, tally.answers()


def _accuracy_of(twin: Manifest | None, *, seen_classes: int) -> float | None:
    """Return a version's fused accuracy on held-out images, or where none were, on those that were left out in turn.

    None if it was not measured, or is of other classes.
    """
    if twin is None or twin.evaluation is None or len(twin.classes) != seen_classes:
        return None
    evaluation = Evaluation.model_validate(twin.evaluation)
    held_out = evaluation.fused("held_out")[1]
    return evaluation.fused("left_one_out")[1] if held_out is None else held_out
