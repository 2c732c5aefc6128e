"""All pairs within groups, in blocks of bounded size."""

from collections.abc import Iterator

import numpy as np

# Pairs looked at in one go: bounds memory.
_BLOCK = 200_000


def pairs_by_group(
    first: np.ndarray, second: np.ndarray, groups: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pair every element of `first` with every element of `second` of the same group.

    Args:
        first: (N,) group numbers, ascending.
        second: (M,) group numbers, ascending.
        groups: one more than the highest number.

    Yields:
        Positions in `first` and in `second`, of equal length.
    """
    count = np.bincount(second, minlength=groups)
    begin = np.cumsum(count) - count
    partners = count[first]
    ends = np.cumsum(partners)
    position = 0
    while position < len(first):
        done = ends[position - 1] if position else 0
        last = max(position + 1, np.searchsorted(ends, done + _BLOCK, side="right"))
        rows = np.arange(position, last)
        one = np.repeat(rows, partners[rows])
        offset = np.repeat(ends[rows] - partners[rows] - done, partners[rows])
        yield one, begin[first[one]] + np.arange(len(one)) - offset
        position = last
