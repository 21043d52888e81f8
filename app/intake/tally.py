"""Counts what becomes of an upload's files, for the report to its sender."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

from app.intake.layout import MAX_LISTED
from app.intake.source import Item, Source
from exchange.contracts import RejectedImage, RenamedClass, RepeatedImage, ValidationReport

_MAX_TYPED = 200


class Tally:
    """The counts of an upload while it is read. The lists of its report hold at most 1,000 rows each.

    Args:
        names: the class that each label of the upload means.
        learned: the classes of the task, in its order.
    """

    def __init__(self, names: Mapping[str, str], learned: Iterable[str]) -> None:
        self._names = names
        self._counts = dict.fromkeys(learned, 0)
        self._held_out: dict[str, int] = {}
        self._test: dict[str, int] = {}
        self._rejected: list[RejectedImage] = []
        self._rejected_count = 0
        self._first: dict[bytes, tuple[str, str, bool, bool]] = {}
        self._repeated: list[RepeatedImage] = []
        self._repeated_count = 0
        self.repeated_within = 0
        """Images that equal an earlier one of their class and split byte for byte."""

    def reject(self, where: str, reason: str) -> None:
        self._rejected_count += 1
        if len(self._rejected) < MAX_LISTED:
            self._rejected.append(RejectedImage(path=where, reason=reason))

    def accept(self, item: Item, data: bytes, name: str) -> None:
        """Count an image of the class `name`, and compare it with all before."""
        if item.test:
            self._test[name] = self._test.get(name, 0) + 1
        else:
            self._counts[name] += 1
        if item.held_out:
            self._held_out[name] = self._held_out.get(name, 0) + 1
        this = (item.where, name, item.held_out, item.test)
        path, label, *split = self._first.setdefault(sha256(data).digest(), this)
        if (label, *split) != (name, item.held_out, item.test):
            self._repeated_count += 1
            if len(self._repeated) < MAX_LISTED:
                self._repeated.append(RepeatedImage(path=item.where, label=name, first_path=path, first_label=label))
        elif path != item.where:
            self.repeated_within += 1

    def report(self, source: Source) -> ValidationReport:
        """Return the report of all that was counted, and of what the source has passed over."""
        renamed = [
            RenamedClass(typed=raw[:_MAX_TYPED], taught=name) for raw, name in self._names.items() if raw != name
        ]
        return ValidationReport(
            classes=self._counts,
            accepted=sum(self._counts.values()),
            held_out=self._held_out,
            test_set=self._test,
            rejected=tuple(self._rejected),
            rejected_count=self._rejected_count,
            passed_over=source.passed_over,
            passed_over_count=source.passed_over_count,
            repeated=tuple(self._repeated),
            repeated_count=self._repeated_count,
            renamed=tuple(renamed[:MAX_LISTED]),
            notes=source.notes,
        )
