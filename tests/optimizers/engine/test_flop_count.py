"""Counted work: equal to what torch counts while the methods compute."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from optbench.optimizers import OPTIMIZERS, AdamW, Kron, Lion, Muon, Scion, Soap, Sophia
from optbench.optimizers.annealing import updates_until
from optbench.optimizers.base import BaseOptimizer
from optbench.optimizers.engine.flop_count import FlopCount
from optbench.space import Value

STEPS = 9


def group_of(method: type[BaseOptimizer], role: str, options: dict[str, Value]) -> dict[str, Value]:
    return {**method.default_hyperparameters(), "role": role, **options}


def baddbmm_flops(
    total: Any, a: tuple[int, ...], b: tuple[int, ...], out_shape: Any = None, **scales: float
) -> int:
    """Torch has no formula for the product that is added in place; arguments come as shapes."""
    return 2 * a[0] * a[1] * a[2] * b[2]


def counted_flops(
    method: type[BaseOptimizer], shape: tuple[int, ...], group: dict[str, Value]
) -> float:
    """FLOPs of the matrix products in the updates after the first, as torch counts them."""
    grad = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    state = method.init_state(grad, group)
    method.update(grad, state, 1, group)
    in_place = {torch.ops.aten.baddbmm_: baddbmm_flops}
    counter = FlopCounterMode(display=False, custom_mapping=in_place)
    with counter:
        for step in range(2, STEPS + 1):
            method.update(grad, state, step, group)
    return float(counter.get_total_flops())


@pytest.mark.parametrize("method", [Muon, Scion])
@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (8, 8)])
def test_newton_schulz_is_counted_exactly(
    method: type[BaseOptimizer], shape: tuple[int, int]
) -> None:
    group = group_of(method, "matrix", {"ns_steps": 3})
    work = method.update_flops(shape, group, STEPS)
    assert counted_flops(method, shape, group) == work.bf16_flops / STEPS * (STEPS - 1)
    assert work.fp32_flops == work.factor_flops == 0


def test_newton_schulz_in_the_dtype_of_the_state_is_counted_at_that_precision() -> None:
    low = Muon.update_flops((8, 12), group_of(Muon, "matrix", {"ns_dtype": "auto"}), STEPS)
    full = Muon.update_flops((8, 12), group_of(Muon, "matrix", {"ns_dtype": "state"}), STEPS)
    assert full == FlopCount(fp32_flops=low.bf16_flops)
    assert low.bf16_flops == STEPS * 5 * (4 * 8**2 * 12 + 2 * 8**3)


@pytest.mark.parametrize(
    ("role", "shape", "options"),
    [
        ("matrix", (12, 8), {"precondition_frequency": 2}),
        ("matrix", (12, 8), {"precondition_frequency": 3, "count_first_step": True}),
        ("matrix", (12, 8), {"precondition_frequency": 1, "block_size": 5}),
        ("embedding", (40, 8), {"precondition_frequency": 2}),
        ("norm", (8,), {}),
        ("norm", (8,), {"rotate_vectors": True}),
    ],
)
def test_soap_is_counted_exactly(
    role: str, shape: tuple[int, ...], options: dict[str, Value]
) -> None:
    group = group_of(Soap, role, options)
    assert counted_flops(Soap, shape, group) == Soap.update_flops(shape, group, STEPS).fp32_flops


def test_a_refresh_of_soap_factors_both_sides() -> None:
    group = group_of(Soap, "matrix", {"precondition_frequency": 4})
    work = Soap.update_flops((12, 8), group, STEPS)
    assert work.factor_flops == pytest.approx(2 * 8 / 3 * (12**3 + 8**3))


@pytest.mark.parametrize(
    ("role", "shape", "options", "sides"),
    [
        ("matrix", (12, 8), {}, (12, 8)),
        ("matrix", (12, 8), {"flat_steps": 2, "min_update_probability": 0.1}, (12, 8)),
        ("head", (20, 8), {}, (8,)),
        ("norm", (8,), {}, ()),
    ],
)
def test_kron_is_counted_exactly_where_factors_are_one_panel(
    role: str, shape: tuple[int, ...], options: dict[str, Value], sides: tuple[int, ...]
) -> None:
    group = group_of(Kron, role, options)
    schedule = (float(group["min_update_probability"]), int(group["flat_steps"]))
    updates = updates_until(STEPS, *schedule) - updates_until(1, *schedule)
    work = Kron.update_flops(shape, group, STEPS)
    first = Kron.update_flops(shape, group, 1)
    # The bound of a spectral norm takes two products with a vector, which the work leaves out.
    bounds = updates * sum(4 * side**2 for side in sides)
    assert counted_flops(Kron, shape, group) == work.fp32_flops - first.fp32_flops + bounds


def test_elementwise_methods_have_no_work_but_their_memory() -> None:
    for method in (AdamW, Lion, Sophia):
        assert method.update_flops((12, 8), group_of(method, "matrix", {}), STEPS) == FlopCount()


def test_curvature_estimates_are_further_passes() -> None:
    sampled = group_of(Sophia, "matrix", {"curvature_interval": 10, "estimator": "gnb"})
    hessian = {**sampled, "estimator": "hutchinson"}
    assert Sophia.extra_passes(sampled, 105) == 10
    assert Sophia.extra_passes(hessian, 105) == 30
    others = [cls for cls in OPTIMIZERS.values() if cls is not Sophia]
    assert all(cls.extra_passes(group_of(cls, "matrix", {}), 105) == 0 for cls in others)
