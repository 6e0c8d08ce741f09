from __future__ import annotations

import pytest
import torch
from torch import nn

from optbench.optimizers import AdamW, Mars
from tests.optimizers.comparison import ROLES, by_role, largest_error
from tests.optimizers.reference_mars import ReferenceMars
from tests.optimizers.trajectories import ROUNDING, SHAPES, distance, gradient, parameters, walk

COMMON = {
    "lr": 0.02,
    "beta1": 0.9,
    "beta2": 0.95,
    "eps": 1e-8,
    "weight_decay": 0.1,
    "gamma": 0.05,
}
PAPER_REFERENCE = {"clip_scope": "global", "clip_eps": 1e-6, "one_dimensional": "mars"}


def reference(params: list[nn.Parameter], **form: object) -> ReferenceMars:
    starts = [param.detach().numpy() for param in params]
    shared = {"beta1_1d": COMMON["beta1"], "beta2_1d": COMMON["beta2"]}
    return ReferenceMars(starts, roles=ROLES, **COMMON, **shared, **form)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.1, 0.01], ids=["clipped", "partly", "unclipped"])
def test_trajectory_is_that_of_the_authors(scale: float, batched: bool):
    params = parameters()
    optimizer = Mars(by_role(params), aux_lr_ratio=0.5, **COMMON)
    optimizer.batched = batched
    other = reference(params, lr_1d_ratio=0.5)
    assert largest_error(optimizer, other, params, scale=scale) < 1e-12


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.05, 0.01], ids=["clipped", "partly", "unclipped"])
def test_trajectory_is_that_of_the_study(scale: float, batched: bool):
    params = parameters()
    optimizer = Mars(by_role(params), **COMMON, **Mars.paper)
    optimizer.batched = batched
    other = reference(params, **PAPER_REFERENCE)
    assert largest_error(optimizer, other, params, scale=scale) < 1e-12


def test_a_global_clip_without_vectors_counts_matrices_alone():
    params = parameters()
    optimizer = Mars(by_role(params), clip_scope="global", **COMMON)
    other = reference(params, clip_scope="global", clip_eps=1e-6)
    assert largest_error(optimizer, other, params, scale=0.1) < 1e-12


def test_equal_gradients_in_a_row_need_no_correction():
    params = parameters()
    optimizer = Mars(params, **COMMON)
    walk(optimizer, params, range(1, 2), scale=0.01)
    moments = [optimizer.state[param]["exp_avg"].clone() for param in params]
    walk(optimizer, params, range(1, 2), scale=0.01)
    for index, (param, before) in enumerate(zip(params, moments, strict=True)):
        uncorrected = torch.lerp(before, 0.01 * gradient(index, 1, SHAPES[index]), 1 - 0.9)
        found = optimizer.state[param]["exp_avg"]
        torch.testing.assert_close(found, uncorrected, rtol=0, atol=ROUNDING)


def test_without_correction_small_gradients_give_adamw():
    ours, theirs = parameters(), parameters()
    shared = {name: COMMON[name] for name in COMMON if name != "gamma"}
    walk(Mars(ours, gamma=0.0, **shared), ours, 10, scale=0.01)
    walk(AdamW(theirs, **shared), theirs, 10, scale=0.01)
    assert distance(ours, theirs) < ROUNDING


def test_the_previous_gradient_is_a_copy():
    param = nn.Parameter(torch.zeros(2, 3))
    param.grad = torch.full((2, 3), 0.5)
    optimizer = Mars([param])
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    assert torch.equal(optimizer.state[param]["previous_grad"], torch.full((2, 3), 0.5))


@pytest.mark.parametrize("options", [{}, dict(Mars.paper)], ids=["authors", "study"])
def test_reused_gradient_buffers_give_the_trajectory_of_fresh_ones(options: dict[str, object]):
    fresh, reused = parameters(), parameters()
    walk(Mars(fresh, **options), fresh, 5)
    optimizer = Mars(reused, **options)
    for param in reused:
        param.grad = torch.zeros_like(param)
    for step in range(1, 6):
        optimizer.zero_grad(set_to_none=False)
        for index, param in enumerate(reused):
            param.grad.add_(gradient(index, step, SHAPES[index]))
        optimizer.step()
    assert distance(fresh, reused) == 0


def test_vectors_have_no_previous_gradient_unless_asked_for():
    for optimize_1d, expected in ((False, {"exp_avg", "exp_avg_sq"}), (True, {"previous_grad"})):
        param = nn.Parameter(torch.zeros(5))
        param.grad = torch.ones(5)
        optimizer = Mars([param], optimize_1d=optimize_1d)
        optimizer.step()
        assert expected <= set(optimizer.state[param])
        assert ("previous_grad" in optimizer.state[param]) is optimize_1d


def test_gamma_may_differ_between_groups_under_one_clip():
    params = parameters(((4, 4), (4, 4)))
    groups = [{"params": params[:1], "gamma": 0.0}, {"params": params[1:], "gamma": 0.5}]
    optimizer = Mars(groups, clip_scope="global", beta1=0.5)
    walk(optimizer, params, 1)
    first, second = gradient(0, 1, (4, 4)), 1.5 * gradient(1, 1, (4, 4))
    factor = 1 / ((first.square().sum() + second.square().sum()).sqrt() + 1e-6)
    moments = [optimizer.state[param]["exp_avg"] for param in params]
    torch.testing.assert_close(moments[0], 0.5 * factor * first, rtol=1e-14, atol=0)
    torch.testing.assert_close(moments[1], 0.5 * factor * second, rtol=1e-14, atol=0)


def test_a_global_clip_spans_dtypes():
    params = parameters(((4, 4), (4, 4)))
    params[1].data = params[1].data.float()
    expected = parameters(((4, 4), (4, 4)))
    walk(Mars(params, clip_scope="global"), params, 3)
    walk(Mars(expected, clip_scope="global"), expected, 3)
    assert distance(params, expected) < 1e-6


def test_the_factor_of_a_common_clip_is_not_kept():
    params = parameters()
    optimizer = Mars(params, clip_scope="global")
    walk(optimizer, params, 1)
    assert all("clip_factor" not in group for group in optimizer.param_groups)


def test_an_unknown_clip_scope_is_refused():
    message = r"`clip_scope` must be 'tensor' or 'global', but got clip_scope='norm'\."
    with pytest.raises(ValueError, match=message):
        Mars(parameters(), clip_scope="norm")


@pytest.mark.parametrize("clip_scope", ["tensor", "global"])
def test_the_fused_kernel_is_the_rule_in_plain_operations(
    clip_scope: str, monkeypatch: pytest.MonkeyPatch
):
    fused, plain = parameters(), parameters()
    settings = {"lr": 0.1, "beta1": 0.8, "eps": 1e-3, "weight_decay": 0.25}
    walk(Mars(fused, **settings, clip_scope=clip_scope), fused, 30)
    assert Mars.fused is not None
    monkeypatch.setattr(Mars, "fused", None)
    monkeypatch.setattr(AdamW, "fused", None)
    walk(Mars(plain, **settings, clip_scope=clip_scope), plain, 30)
    assert 0 <= distance(fused, plain) < 1e-14
