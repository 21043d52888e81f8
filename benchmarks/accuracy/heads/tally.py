"""Chooses a head's one setting from a grid, by right answers on kept-back images that are seen once."""

from __future__ import annotations

from collections.abc import Sequence


class Tally:
    """Right answers on kept-back images for every value of a grid, added up over tasks.

    When a task comes, its kept-back images are classified among all classes so far with every value. Only the numbers
    of right answers are kept.

    Args:
        grid: the values, in order.
        default: the value while no kept-back image was answered right; one of the grid.
    """

    def __init__(self, grid: Sequence[float], *, default: float) -> None:
        assert default in grid, "the default is in the grid"
        self._right = dict.fromkeys(grid, 0)
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
        equal = [value for value, right in self._right.items() if right == most]
        return equal[len(equal) // 2]
