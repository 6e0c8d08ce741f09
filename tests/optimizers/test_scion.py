from __future__ import annotations

import pytest
import torch
from torch import nn

from optbench.config import Role
from optbench.optimizers import Scion, parameter_groups
from tests.optimizers.comparison import ROLES, by_role, largest_error
from tests.optimizers.reference_scion import ReferenceScion
from tests.optimizers.trajectories import SHAPES, distance, parameters, walk

SETTINGS = {
    "lr": 0.004,
    "momentum": 0.9,
    "radius_embedding": 0.7,
    "radius_hidden": 5.0,
    "radius_head": 30.0,
}
WIDTH = SHAPES[ROLES.index("embedding")][1]
PAPER = {**Scion.paper, "lr": 0.02, "beta1": 0.8, "aux_lr_ratio": 0.3}


def grouped(params: list[nn.Parameter]) -> list[dict]:
    """One group per parameter of ``SHAPES``, all with the optimizer's own weight decay."""
    return [{"params": [p], "role": role} for p, role in zip(params, ROLES, strict=True)]


def reference(params: list[nn.Parameter], **settings: object) -> ReferenceScion:
    common = {
        "roles": ROLES,
        "lr": SETTINGS["lr"],
        "momentum": SETTINGS["momentum"],
        "radius_embedding": 0.7,
        "radius_matrix": 5.0,
        "radius_head": 30.0,
        "radius_norm": 5.0,
        "norm_lmo": "rms",
        "eps": 0.0,  # an addend of 1e-7 at the authors, a floor here
    }
    return ReferenceScion([param.detach().numpy() for param in params], **(common | settings))


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(("form", "decay"), [("constrained", 1.0), ("unconstrained", 0.0)])
def test_trajectory_is_that_of_the_authors(form: str, decay: float, batched: bool):
    params = parameters()
    optimizer = Scion(grouped(params), weight_decay=decay, **SETTINGS)
    optimizer.batched = batched
    assert largest_error(optimizer, reference(params, form=form), params) < 1e-12


def test_the_defaults_are_the_authors_recipe_for_two_matrices():
    """Embedding by its sign at 1, hidden matrices at 3, head by its sign over the width at 10."""
    params = parameters()
    recipe = {"radius_embedding": 1.0, "radius_matrix": 3.0, "radius_head": 10.0}
    other = reference(params, lr=0.008, momentum=0.9, radius_norm=3.0, **recipe)
    assert largest_error(Scion(grouped(params)), other, params) < 1e-12


@pytest.mark.parametrize(("form", "decay"), [("constrained", 1.0), ("unconstrained", 0.0)])
def test_trajectory_is_that_of_the_authors_for_a_tied_embedding(form: str, decay: float):
    params = parameters()
    optimizer = Scion(grouped(params), embedding_rule="head", weight_decay=decay, **SETTINGS)
    other = reference(params, form=form, radius_embedding=30.0 / WIDTH)
    assert largest_error(optimizer, other, params) < 1e-12


@pytest.mark.parametrize("batched", [True, False])
def test_trajectory_is_that_of_the_study(batched: bool):
    params = parameters()
    optimizer = Scion(by_role(params), **PAPER)
    optimizer.batched = batched
    other = ReferenceScion(
        [param.detach().numpy() for param in params],
        roles=ROLES,
        form="paper",
        lr=PAPER["lr"],
        momentum=PAPER["momentum"],
        beta1=PAPER["beta1"],
        weight_decay=PAPER["weight_decay"],
        signum_lr_ratio=PAPER["aux_lr_ratio"],
        ns_steps=10,
        eps=0.0,
    )
    assert largest_error(optimizer, other, params) < 1e-12


@pytest.mark.parametrize("shape", [(24, 12), (12, 24), (16, 16)])
def test_a_constrained_matrix_stays_in_its_ball(shape: tuple[int, int]):
    param = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    optimizer = Scion([param], lr=0.5, radius_hidden=3.0)
    limit = 1.21 * 3.0 * (shape[0] / shape[1]) ** 0.5
    largest = 0.0
    for step in range(30):
        generator = torch.Generator().manual_seed(step)
        param.grad = torch.randn(shape, generator=generator, dtype=torch.float64)
        optimizer.step()
        largest = max(largest, float(torch.linalg.matrix_norm(param.detach(), 2)))
    assert 0.5 * limit < largest <= limit


@pytest.mark.parametrize(("role", "limit"), [("head", 30.0 / 10), ("norm", None)])
def test_a_constrained_head_or_gain_stays_in_its_ball(role: str, limit: float | None):
    shape = (4, 10) if role == "head" else (10,)
    params = parameters((shape,))
    optimizer = Scion([{"params": params, "role": role}], **(SETTINGS | {"lr": 1.0}))
    for step in range(1, 6):
        walk(optimizer, params, range(step, step + 1))
        value = params[0].detach()
        if limit is not None:
            assert value.abs().max() <= limit * (1 + 1e-12)
        else:
            assert 0.99 < value.square().mean().sqrt() / SETTINGS["radius_hidden"] <= 1


def test_a_group_without_decay_is_unconstrained():
    ours, theirs = parameters(((6, 6), (6, 6))), parameters(((6, 6), (6, 6)))
    groups = [
        {"params": ours[:1], "role": "matrix"},
        {"params": ours[1:], "role": "embedding", "weight_decay": 0.0},
    ]
    walk(Scion(groups, **SETTINGS), ours, 3)
    walk(Scion(theirs[:1], **SETTINGS), theirs[:1], 3)
    free = [{"params": theirs[1:], "role": "embedding"}]
    optimizer = Scion(free, weight_decay=0.0, **SETTINGS)
    for step in range(1, 4):
        walk(optimizer, theirs, range(step, step + 1))
    assert distance(ours[1:], theirs[1:]) == 0
    assert distance(ours[:1], theirs[:1]) == 0


@pytest.mark.parametrize("per_input", [True, False])
def test_by_the_rule_of_the_head_an_embedding_is_stepped_as_if_tied_to_it(per_input: bool):
    head, embedding = parameters(((7, 3),)), parameters(((7, 3),))
    options = {**SETTINGS, "embedding_rule": "head", "per_input": per_input}
    for params, role in ((head, "head"), (embedding, "embedding")):
        walk(Scion([{"params": params, "role": role}], **options), params, 4)
    assert distance(head, embedding) == 0


@pytest.mark.parametrize("per_input", [True, False])
def test_the_sign_of_an_embedding_is_not_divided_by_its_width(per_input: bool):
    (embedding,) = parameters(((7, 3),))
    before = embedding.detach().clone()
    group = {"params": [embedding], "role": "embedding", "weight_decay": 0.0}
    walk(Scion([group], **SETTINGS, per_input=per_input), [embedding], 1)
    moved = (embedding.detach() - before).abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.004 * 0.7), rtol=1e-12)


def test_a_checkpoint_from_before_the_embedding_had_a_rule_means_that_of_the_head():
    ours, theirs = parameters(), parameters()
    saved = Scion(by_role(theirs), embedding_rule="head", **SETTINGS)
    walk(saved, theirs, 2)
    state = saved.state_dict()
    for group in state["param_groups"]:
        del group["embedding_rule"], group["radius_embedding"]
    resumed = Scion(by_role(ours), **SETTINGS)
    walk(resumed, ours, 2)
    with torch.no_grad():
        for mine, other in zip(ours, theirs, strict=True):
            mine.copy_(other)
    resumed.load_state_dict(state)
    assert {group["embedding_rule"] for group in resumed.param_groups} == {"head"}
    for optimizer, params in ((saved, theirs), (resumed, ours)):
        walk(optimizer, params, range(3, 6))
    assert distance(ours, theirs) == 0


def test_a_gain_is_stepped_as_a_matrix_of_one_column_without_the_error_of_newton_schulz():
    gain, column = parameters(((8,),)), parameters(((8, 1),))
    column[0].data = gain[0].data.unsqueeze(1).clone()
    gain[0].grad = torch.linspace(-1, 2, 8, dtype=torch.float64)
    column[0].grad = gain[0].grad.unsqueeze(1)
    for params in (gain, column):
        Scion(params, lr=1.0, weight_decay=0.0, radius_hidden=1.0).step()
    gain_step = gain[0].detach() - parameters(((8,),))[0].detach()
    column_step = column[0].detach()[:, 0] - parameters(((8,),))[0].detach()
    assert torch.cosine_similarity(gain_step, column_step, dim=0) > 1 - 1e-9
    assert gain_step.square().mean().sqrt() == pytest.approx(1, abs=1e-6)


def test_roles_of_a_model_select_the_norms():
    model = nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 11))
    optimizer = Scion(parameter_groups(model))
    rules = {
        group["role"]: optimizer.rule_of(group, group["params"][0].shape).__name__
        for group in optimizer.param_groups
    }
    assert rules == {
        Role.MATRIX: "Scion",
        Role.EMBEDDING: "SignScion",
        Role.HEAD: "SignScion",
        Role.NORM: "SignScion",
        Role.BIAS: "SignScion",
    }


@pytest.mark.parametrize("role", ["matrix", "head", "norm"])
def test_a_zero_gradient_moves_nothing(role: str):
    params = parameters(((6, 6),))
    optimizer = Scion([{"params": params, "role": role}], weight_decay=0.0)
    walk(optimizer, params, 3, scale=0.0)
    assert distance(params, parameters(((6, 6),))) == 0


@pytest.mark.parametrize("rule", ["rms", "sign"])
def test_a_nan_is_not_hidden_by_its_sign(rule: str):
    params = parameters(((4, 3), (5,)))
    groups = [{"params": params[:1], "role": "head"}, {"params": params[1:], "role": "norm"}]
    for param in params:
        param.grad = torch.full_like(param, torch.nan)
    Scion(groups, norm_rule=rule).step()
    assert all(param.isnan().all() for param in params)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="`norm_rule` must be 'rms' or 'sign', but got"):
        Scion(parameters(), norm_rule="max")
