"""Pure: which consumer reads which partitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def assign(
    partitions: Sequence[str], consumers: Sequence[str], before: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Give each partition to one consumer, evenly, and move as few as can be.

    Args:
        partitions: What is to be read.
        consumers: Who is alive; at least one.
        before: What each consumer, alive or not, has now.

    Returns:
        Partitions by consumer, for every living one; the numbers differ by at most one.

    >>> assign(["0", "1", "2"], ["a", "b"], {"a": ["0", "1", "2"]})
    {'a': ('0', '1'), 'b': ('2',)}
    """
    known = set(partitions)
    kept = {name: [p for p in before.get(name, ()) if p in known] for name in consumers}
    taken = {p for held in kept.values() for p in held}
    free = [p for p in partitions if p not in taken]
    least, more = divmod(len(partitions), len(consumers))
    # Those that have the most keep the larger share, so that nothing moves without need.
    order = sorted(consumers, key=lambda name: -len(kept[name]))
    share = {name: least + (place < more) for place, name in enumerate(order)}
    for name in order:
        free += kept[name][share[name] :]
        del kept[name][share[name] :]
    free.sort(key=list(partitions).index)
    for name in order:
        while len(kept[name]) < share[name]:
            kept[name].append(free.pop(0))
    return {name: tuple(kept[name]) for name in consumers}
