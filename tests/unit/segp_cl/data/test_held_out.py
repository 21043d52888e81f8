from __future__ import annotations

import pytest
import torch

from segp_cl.data.held_out import Split, drawn_from, hold_out, named_by

LABELS = [0] * 20 + [1] * 10 + [2] * 4


def split(labels: list[int], *, fraction: float = 0.2, digest: str = "d", seed: int = 0, min_images: int = 5) -> Split:
    return hold_out(labels, fraction=fraction, min_images=min_images, shuffle=named_by(digest, seed))


def held(labels: list[int], fraction: float = 0.2) -> list[int]:
    held_out = split(labels, fraction=fraction).held_out
    return [sum(labels[i] == c for i in held_out) for c in range(max(labels) + 1)]


def test_every_class_gives_its_share_and_small_ones_nothing() -> None:
    assert held(LABELS) == [4, 2, 0]


def test_together_they_are_everything_once() -> None:
    found = split(LABELS)
    assert sorted(found.train + found.held_out) == list(range(len(LABELS)))
    assert found.train == tuple(sorted(found.train))


def test_at_least_one_is_held_and_one_is_left() -> None:
    assert held([0] * 5, fraction=0.01) == [1]
    assert split([0] * 5, fraction=0.99).train != ()


def test_given_images_are_held_out_exactly_and_their_class_gives_no_others() -> None:
    given = (1, 5, 31)
    found = hold_out(LABELS, fraction=0.2, min_images=5, shuffle=named_by("d", 0), given=given)
    assert [i for i in found.held_out if LABELS[i] != 1] == list(given)
    assert [i for i in found.held_out if LABELS[i] == 1] == [i for i in split(LABELS).held_out if LABELS[i] == 1]
    assert not set(given) & set(found.train)
    assert sorted(found.train + found.held_out) == list(range(len(LABELS)))


def test_given_images_are_held_out_whatever_the_fraction() -> None:
    found = hold_out([0, 0, 1], fraction=0.0, min_images=5, shuffle=named_by("d", 0), given=[1])
    assert found == Split(train=(0, 2), held_out=(1,))


def test_no_fraction_holds_nothing() -> None:
    assert split(LABELS, fraction=0.0).held_out == ()


def test_the_same_data_and_seed_give_the_same_split() -> None:
    assert split(LABELS) == split(LABELS)


@pytest.mark.parametrize("change", [{"digest": "e"}, {"seed": 1}])
def test_other_data_or_another_seed_give_another(change: dict[str, object]) -> None:
    assert split(LABELS, **change) != split(LABELS)  # type: ignore[arg-type]


def test_a_class_keeps_its_share_whatever_other_classes_there_are() -> None:
    alone = split([0] * 20)
    assert [i for i in split(LABELS).held_out if i < 20] == list(alone.held_out)


def test_a_generator_draws_another_split_each_time_and_the_same_again() -> None:
    def drawn(seed: int) -> Split:
        shuffle = drawn_from(torch.Generator().manual_seed(seed))
        return hold_out(LABELS, fraction=0.2, min_images=5, shuffle=shuffle)

    assert drawn(0) == drawn(0) != drawn(1)
    assert len(drawn(0).held_out) == 6
