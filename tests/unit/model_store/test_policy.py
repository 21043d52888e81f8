"""The store's rules, over every small store there is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from model_store import policy
from model_store.types import (
    Action,
    ConflictError,
    InvalidVersionIdError,
    JournalEntry,
    NoCommonAncestorError,
    VersionId,
)

Parents = dict[VersionId, VersionId | None]


def vid(number: int) -> VersionId:
    return policy.version_id_of(number, f"{number:064x}"[::-1])


def entry(action: Action, from_: VersionId | None, to: VersionId | None) -> JournalEntry:
    return JournalEntry(at=datetime(2026, 3, 1, tzinfo=UTC), who="ann", action=action, from_=from_, to=to)


def every_lineage(size: int) -> Iterator[Parents]:
    """Every forest of `size` versions in which parents are older than their children."""
    for choice in itertools.product(*(range(n + 1) for n in range(size))):
        yield {vid(n + 1): vid(parent) if parent else None for n, parent in enumerate(choice)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "000001",
        "000001-",
        "1-0123456789ab",
        "000001-0123456789AB",
        "000001-0123456789abc",
        "000001-0123456789ab\n",
        "000001-0123456789ab/..",
        "../000001-0123456789ab",
        "/000001-0123456789ab",
        "..\\000001-0123456789ab",
        "000001-0123456789ab\0",
        "٠٠٠٠٠١-0123456789ab",
        "000001-0123456789ab/manifest.json",
        "9" * 10_000 + "-0123456789ab",
    ],
)
def test_what_is_not_a_version_id_is_refused(text: str) -> None:
    assert not policy.is_version_id(text)
    with pytest.raises(InvalidVersionIdError):
        policy.check_version_id(text)


@pytest.mark.parametrize(("number", "expected"), [(7, "000007-0123456789ab"), (1_234_567, "1234567-0123456789ab")])
def test_version_id_is_number_and_first_twelve_digits(number: int, expected: str) -> None:
    version = policy.version_id_of(number, "0123456789ab" + "c" * 52)
    assert version == expected == policy.check_version_id(version)
    assert policy.number_of(version) == number


def test_numbers_are_not_used_twice_even_after_a_prune() -> None:
    assert policy.next_number([], []) == 1
    assert policy.next_number([vid(1), vid(2)], []) == 3
    journal = [entry("publish", vid(1), vid(9)), entry("prune", vid(9), None)]
    assert policy.next_number([vid(1), vid(2)], journal) == 10


def test_ancestors_are_nearest_first_and_end_where_a_parent_is_gone() -> None:
    parents: Parents = {vid(2): vid(1), vid(3): vid(2), vid(4): vid(2), vid(5): vid(4)}
    assert policy.ancestors(vid(5), parents) == (vid(4), vid(2))
    assert policy.ancestors(vid(2), parents) == ()
    assert policy.ancestors(vid(9), parents) == ()


def test_ancestors_end_in_a_ring_of_parents() -> None:
    assert policy.ancestors(vid(2), {vid(1): vid(2), vid(2): vid(1)}) == (vid(1),)
    assert policy.ancestors(vid(1), {vid(1): vid(1)}) == ()


@pytest.mark.parametrize("size", range(6))
def test_prune_keeps_what_it_promises_and_nothing_else(size: int) -> None:
    for parents in every_lineage(size):
        versions = list(parents)
        for current in [None, *versions]:
            chain: list[VersionId] = []
            here = current
            while here is not None:
                chain.append(here)
                here = parents[here]
            for keep in (1, 2, 3):
                kept = policy.why_kept(parents, current=current, keep=keep)
                assert set(kept) == {*chain[: keep + 1], *versions[::-1][:keep]}
                assert {version for version, why in kept.items() if why == "CURRENT"} == {*chain[:1]}


def test_a_version_that_is_gone_is_not_kept() -> None:
    assert set(policy.why_kept({vid(2): vid(1)}, current=vid(9), keep=1)) == {vid(2)}
    assert policy.why_kept({}, current=None, keep=1) == {}


def test_a_merge_needs_both_versions_and_all_back_to_their_common_ancestor() -> None:
    parents: dict[VersionId, list[VersionId]] = {vid(1): [], vid(2): [vid(1)], vid(3): [vid(2)], vid(4): [vid(3)]}
    parents |= {vid(5): [vid(2)], vid(6): [vid(1)]}
    assert policy.needed_to_merge(vid(4), vid(5), parents) == {vid(2), vid(3), vid(4), vid(5)}
    without = {version: before for version, before in parents.items() if version not in (vid(1), vid(2))}
    assert policy.needed_to_merge(vid(4), vid(5), without) == {vid(3), vid(4), vid(5)}


def test_current_since_has_what_was_named_at_the_moment_and_after() -> None:
    def moved(second: int, action: Action, to: VersionId | None) -> JournalEntry:
        return JournalEntry(at=datetime(2026, 1, 1, second=second, tzinfo=UTC), who="a", action=action, to=to)

    entries = [
        moved(1, "promote", vid(1)),
        moved(2, "promote", vid(2)),
        moved(3, "pin", vid(9)),
        moved(4, "rollback", vid(1)),
        moved(5, "promote", vid(3)),
    ]
    at = [entry.at for entry in entries]
    assert policy.current_since(entries, at[0]) == {vid(1), vid(2), vid(3)}
    assert policy.current_since(entries, at[2]) == {vid(2), vid(1), vid(3)}
    assert policy.current_since(entries, at[4]) == {vid(3)}
    assert policy.current_since([], at[0]) == frozenset()


@pytest.mark.parametrize("keep", [0, -1])
def test_prune_refuses_to_keep_less_than_one(keep: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        policy.why_kept({vid(1): None}, current=vid(1), keep=keep)


@pytest.mark.parametrize(("expected", "actual"), [*itertools.product([None, vid(1), vid(2)], repeat=2)])
def test_compare_and_swap_compares(expected: VersionId | None, actual: VersionId | None) -> None:
    if expected == actual:
        policy.check_expected(expected, actual)
        return
    with pytest.raises(ConflictError) as caught:
        policy.check_expected(expected, actual)
    assert (caught.value.expected, caught.value.actual) == (expected, actual)


def test_rollback_goes_to_the_parent_or_as_far_back_as_the_lineage_can_be_read() -> None:
    parents = {vid(1): None, vid(2): vid(1), vid(4): vid(2)}
    assert policy.rollback_targets(vid(4), parents, [vid(4), vid(2), vid(1)]) == (vid(2), vid(1))
    assert policy.rollback_targets(vid(1), parents, [vid(1), vid(4)]) == ()
    assert policy.rollback_targets(None, parents, []) == ()


def test_rollback_from_damage_goes_to_what_was_served_before() -> None:
    served = [vid(4), vid(3), vid(1), vid(5)]
    assert policy.rollback_targets(vid(4), {vid(1): None, vid(3): vid(1)}, served) == (vid(3), vid(1))
    assert policy.rollback_targets(vid(4), {vid(1): None, vid(4): vid(3)}, served) == (vid(3), vid(1))
    assert policy.rollback_targets(None, {vid(1): None}, served) == tuple(served)


def test_what_was_served_is_read_from_the_moves_that_named_it_last() -> None:
    entries = [
        entry("publish", None, vid(1)),
        entry("promote", None, vid(1)),
        entry("promote", vid(1), vid(2)),
        entry("promote", vid(2), vid(3)),
        entry("rollback", vid(3), vid(2)),
        entry("recover", vid(2), None),
    ]
    assert policy.served_before(entries, [vid(1), vid(2), vid(9)]) == [vid(2), vid(1)]
    assert policy.moves_in(entries) == 4


@pytest.mark.parametrize(
    ("journal", "expected"),
    [
        ([], set()),
        ([entry("pin", None, vid(1))], {vid(1)}),
        ([entry("pin", None, vid(1)), entry("pin", None, vid(2)), entry("unpin", vid(1), None)], {vid(2)}),
        ([entry("pin", None, vid(1)), entry("unpin", vid(1), None), entry("pin", None, vid(1))], {vid(1)}),
        ([entry("pin", None, vid(1)), entry("prune", vid(1), None)], set()),
        ([entry("unpin", vid(1), None)], set()),
        ([entry("publish", None, vid(1)), entry("promote", None, vid(1))], set()),
    ],
)
def test_a_version_is_pinned_until_unpinned(journal: list[JournalEntry], expected: set[VersionId]) -> None:
    assert policy.pinned_versions(journal) == expected


WHOLE = [
    entry("publish", None, vid(1)),
    entry("promote", None, vid(1)),
    entry("publish", vid(1), vid(2)),
    entry("promote", vid(1), vid(2)),
    entry("rollback", vid(2), vid(1)),
]


def test_a_whole_journal_leaves_nothing_unexplained() -> None:
    assert policy.unexplained([], {}, None) == ()
    assert policy.unexplained(WHOLE, {vid(1): None, vid(2): vid(1)}, vid(1)) == ()
    pruned = [*WHOLE, entry("prune", vid(2), None)]
    assert policy.unexplained(pruned, {vid(1): None}, vid(1)) == ()


@pytest.mark.parametrize(
    ("journal", "parents", "current", "expected"),
    [
        (WHOLE[:2], {vid(1): None, vid(2): vid(1)}, vid(1), [("publish", vid(1), vid(2))]),
        (WHOLE[:4], {vid(1): None, vid(2): vid(1)}, vid(1), [("recover", vid(2), vid(1))]),
        (WHOLE[:2], {vid(1): None}, None, [("recover", vid(1), None)]),
        (WHOLE[:1], {vid(1): None}, vid(1), [("recover", None, vid(1))]),
        (WHOLE, {vid(1): None}, vid(1), [("prune", vid(2), None)]),
        (
            [],
            {vid(1): None, vid(2): vid(1)},
            vid(2),
            [("publish", None, vid(1)), ("publish", vid(1), vid(2)), ("recover", None, vid(2))],
        ),
    ],
    ids=[
        "publish ended before its line",
        "promote ended after its line",
        "first promote ended after its line",
        "CURRENT set by hand",
        "prune ended before its line",
        "journal lost",
    ],
)
def test_what_a_process_left_half_way_is_explained(
    journal: list[JournalEntry],
    parents: Parents,
    current: VersionId | None,
    expected: list[tuple[str, VersionId | None, VersionId | None]],
) -> None:
    lines = policy.unexplained(journal, parents, current)
    assert [(line.action, line.from_, line.to) for line in lines] == expected
    mended = [*journal, *(entry(line.action, line.from_, line.to) for line in lines)]
    assert policy.unexplained(mended, parents, current) == ()


def lineage(**parents: tuple[int, ...]) -> dict[VersionId, tuple[VersionId, ...]]:
    """v3=(1, 2): version 3 was made of 1 and 2."""
    return {vid(int(name[1:])): tuple(map(vid, made_of)) for name, made_of in parents.items()}


@pytest.mark.parametrize(
    ("parents", "ours", "theirs", "expected"),
    [
        (lineage(v1=(), v2=(1,), v3=(1,)), 2, 3, 1),
        (lineage(v1=(), v2=(1,), v3=(1,), v4=(3,), v5=(4,)), 2, 5, 1),
        # 4 was merged of 2 and 3; 5 went on from 3: what both have of 3 counts once
        (lineage(v1=(), v2=(1,), v3=(1,), v4=(2, 3), v5=(3,)), 4, 5, 3),
        (lineage(v1=(), v2=(1,), v3=(1,), v4=(2, 3), v5=(2,)), 5, 4, 2),
    ],
)
def test_the_common_ancestor_is_the_last_that_both_contain(
    parents: dict[VersionId, tuple[VersionId, ...]], ours: int, theirs: int, expected: int
) -> None:
    assert policy.common_ancestor(vid(ours), vid(theirs), parents) == vid(expected)


@pytest.mark.parametrize(
    ("parents", "ours", "theirs", "why"),
    [
        (lineage(v1=(), v2=(1,)), 1, 2, "contains"),
        (lineage(v1=(), v2=(1,)), 2, 1, "contains"),
        (lineage(v1=(), v2=(1,)), 2, 2, "named twice"),
        (lineage(v2=(1,), v3=(1,)), 2, 3, "no version that both contain is left"),
        (lineage(v1=(), v2=(1,), v3=(1,), v4=(2, 3), v5=(3, 2)), 4, 5, "more than one version"),
    ],
)
def test_what_has_no_single_common_ancestor_cannot_be_merged(
    parents: dict[VersionId, tuple[VersionId, ...]], ours: int, theirs: int, why: str
) -> None:
    with pytest.raises(NoCommonAncestorError, match=why):
        policy.common_ancestor(vid(ours), vid(theirs), parents)


def test_parents_that_go_round_in_a_circle_end() -> None:
    parents = lineage(v1=(2,), v2=(1,), v3=(1,))
    assert policy.learned_in(vid(3), parents) == {vid(1), vid(2), vid(3)}
