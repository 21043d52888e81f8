"""Chooses a head's one setting from a grid, by right answers on kept-back images that are seen once."""

from __future__ import annotations

from collections.abc import Sequence


class Tally:
    """Right answers on kept-back images for every value of a grid, added up over tasks.

    When a task comes, its kept-back images are classified among all classes so far with every value. Only the numbers
    of right answers are kept. The squared error would follow from sums over the kept-back images, but its minimum is
    not where most answers are right: on real features of aircraft, ridge loses three points by it.

    Args:
        grid: the values, weakest regularisation first.
        default: the value while there was no kept-back image; one of the grid.
    """

    def __init__(self, grid: Sequence[float], *, default: float) -> None:
        assert default in grid
        self.grid = tuple(grid)
        self._right = dict.fromkeys(self.grid, 0)
        self._default = default

    def add(self, value: float, right: int) -> None:
        """Count `right` more right answers of `value`."""
        self._right[value] += right

    def best(self) -> float:
        """The value with the most right answers; of several that are equal, the one in their middle.

        Equal values often lie side by side, and the middle is furthest from where answers become worse.
        """
        most = max(self._right.values())
        if most == 0:
            return self._default
        equal = [value for value in self.grid if self._right[value] == most]
        return equal[len(equal) // 2]
