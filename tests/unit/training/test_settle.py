"""What a recipe says of speed and repeatability reaches torch."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from heliostat.training.compute import Compute
from heliostat.training.settle import settle

CPU = torch.device("cpu")
# A device of which nothing is asked: no index, so it need not be there.
GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    torch.use_deterministic_algorithms(mode=False)


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("float32", GPU, "highest"),
        ("bfloat16", GPU, "highest"),
        ("tf32", GPU, "high"),
        ("tf32", CPU, "highest"),
    ],
)
def test_products_are_rounded_only_where_the_recipe_says_so(
    precision: str, device: torch.device, expected: str
) -> None:
    """And never on a CPU; what an earlier training set does not stay."""
    torch.set_float32_matmul_precision("medium")

    settle(Compute(precision=precision), device)

    assert torch.get_float32_matmul_precision() == expected


def test_deterministic_gives_cublas_the_workspace_that_torch_asks_for() -> None:
    """Without it the first product on a GPU raises; what the user has set stays."""
    settle(Compute(deterministic=True), GPU)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch.are_deterministic_algorithms_enabled()

    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
    settle(Compute(deterministic=True), GPU)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_worker_on_cpus_computes_with_as_many_threads() -> None:
    """At least one, whatever share of a CPU it has."""
    settle(Compute(cpus_per_worker=2.0), CPU)
    assert torch.get_num_threads() == 2
    settle(Compute(cpus_per_worker=0.5), CPU)
    assert torch.get_num_threads() == 1
