"""The calibration of `make prove-rollouts`, small."""

from __future__ import annotations

from tests.bench import rollouts


def test_levels_hold_and_harm_is_found_in_time():
    """400 rollouts per setting; the burst processes that are only reported are not checked."""
    told = rollouts.measure(small=True)
    levels = {name: item["e_process"] for name, item in told["false_alarms"]["claimed"].items()}

    assert [name for name, item in levels.items() if not item["holds"]] == []
    assert [name for name, item in told["sparse"].items() if not item["e_process"]["holds"]] == []
    assert told["split"]["sequential"]["holds"]
    for item in told["detection"].values():
        # A hundred rollouts: the median may miss its limit by chance, the full size may not.
        assert item["median_s"] <= 1.25 * item["limit_s"]
    usual = [item["threshold_1%"] for item in told["sparse"].values()]
    assert usual[0] > 0.5
