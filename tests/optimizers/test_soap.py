from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from optbench.optimizers import Soap
from tests.optimizers.comparison import DECAYED, ROLES, by_role, largest_error
from tests.optimizers.reference_soap import ReferenceSoap
from tests.optimizers.trajectories import (
    arrays,
    distance,
    gradient,
    parameters,
    state_tensors,
    walk,
)

COMMON = {
    "lr": 0.02,
    "beta1": 0.9,
    "beta2": 0.95,
    "eps": 1e-8,
    "weight_decay": 0.1,
    "shampoo_beta": 0.9,
}
VOCABULARY = ("head", "embedding")
SIDES = ("rows", "columns")


class AlignedReference:
    """The reference from the bases that the optimizer found, decayed in the skipped step too.

    A rectangular gradient leaves the basis of its longer side open where its eigenvalue is zero.
    """

    def __init__(self, optimizer: Soap, params: list[nn.Parameter], **form: Any) -> None:
        starts = [param.detach().numpy() for param in params]
        self.optimizer, self.ours = optimizer, params
        self.inner = ReferenceSoap(starts, roles=ROLES, **COMMON, **form)
        for rotated, role in zip(self.inner.rotated, ROLES, strict=True):
            rotated[0] &= role not in VOCABULARY

    @property
    def params(self) -> list[NDArray]:
        return self.inner.params

    def step(self, grads: list[NDArray], lr: float | None = None) -> None:
        first = self.inner.t == 0
        self.inner.step(grads, lr=lr)
        if first:
            for i, role in enumerate(ROLES):
                self.inner.params[i] = self.inner.params[i] * self.decay(role, lr)
                self.take_bases(i)

    def decay(self, role: str, lr: float | None) -> float:
        return 1 - (lr or COMMON["lr"]) * (COMMON["weight_decay"] if role in DECAYED else 0.0)

    def take_bases(self, i: int) -> None:
        entry = self.optimizer.state[self.ours[i]]
        for side, name in enumerate(SIDES):
            assert self.inner.rotated[i][side] == (f"basis_{name}" in entry)
            if self.inner.rotated[i][side]:
                ours = entry[f"basis_{name}"].numpy().copy()
                known = min(self.inner.bases[i][0].shape[0], self.inner.bases[i][1].shape[0])
                overlap = abs((ours * self.inner.bases[i][side]).sum(0))[:known]
                assert abs(overlap - 1).max() < 1e-9  # the same eigenvectors but for their signs
                self.inner.bases[i][side] = ours


STUDY = {"count_first_step": True, "refresh_first": True}
STUDY_REFERENCE = {"count_skipped_step": True, "gram_first": False, "eigh_jitter": COMMON["eps"]}


# A refresh while the gradients so far do not span the longer side takes the rest of its basis from
# rounding errors, in any implementation. The first one below comes after that.
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("frequency", [3, 10])
def test_trajectory_is_that_of_the_authors_with_momentum_in_the_original_space(
    frequency: int, batched: bool
):
    params = parameters()
    optimizer = Soap(by_role(params), precondition_frequency=frequency, **COMMON)
    optimizer.batched = batched
    other = AlignedReference(optimizer, params, precondition_frequency=frequency)
    assert largest_error(optimizer, other, params) < 1e-10


@pytest.mark.parametrize("batched", [True, False])
def test_trajectory_is_that_of_the_study(batched: bool):
    params = parameters()
    optimizer = Soap(by_role(params), **COMMON, **STUDY, rotate_vectors=True)
    optimizer.batched = batched
    form = {**STUDY_REFERENCE, "adam_roles": (), "precondition_frequency": 10}
    assert largest_error(optimizer, AlignedReference(optimizer, params, **form), params) < 1e-10


@pytest.mark.parametrize(("ours", "theirs"), [({}, {}), (STUDY, STUDY_REFERENCE)])
def test_square_matrices_are_followed_from_the_first_refresh(
    ours: dict[str, bool], theirs: dict[str, Any]
):
    params = parameters(((6, 6), (5, 5)))
    optimizer = Soap(params, precondition_frequency=1, **COMMON, **ours)
    starts = [param.detach().numpy() * (1 - 0.02 * 0.1) for param in params]
    other = ReferenceSoap(
        starts, roles=("matrix", "matrix"), precondition_frequency=1, **COMMON, **theirs
    )
    for step in range(1, 31):
        walk(optimizer, params, range(step, step + 1))
        other.step([gradient(i, step, tuple(p.shape)).numpy() for i, p in enumerate(params)])
        errors = [
            abs(p.detach().numpy() - r).max() for p, r in zip(params, other.params, strict=True)
        ]
        assert max(errors) < 1e-9


def test_the_presets_options_are_those_compared_with_the_study():
    assert set(Soap.paper) == {*STUDY, "rotate_vectors", "block_size"}


def test_blocks_are_matrices_of_their_own():
    (whole,) = parameters(((6, 6),))
    pieces = [
        nn.Parameter(whole.detach()[a : a + 3, b : b + 3].clone()) for a in (0, 3) for b in (0, 3)
    ]
    settings = {"precondition_frequency": 3, "lr": 0.02}
    one, four = Soap([whole], block_size=3, **settings), Soap(pieces, **settings)
    for step in range(1, 12):
        grad = gradient(0, step, (6, 6))
        whole.grad = grad
        for piece, (a, b) in zip(pieces, ((0, 0), (0, 3), (3, 0), (3, 3)), strict=True):
            piece.grad = grad[a : a + 3, b : b + 3].clone()
        one.step()
        four.step()
    together = torch.cat([torch.cat(pieces[:2], 1), torch.cat(pieces[2:], 1)])
    assert distance([whole], [together]) < 1e-12


def test_a_block_filled_up_with_zeros_is_the_smaller_block():
    """5 × 3 in blocks of 3: a whole block, and one of two rows and a row of zeros."""
    (whole,) = parameters(((5, 3),))
    pieces = [nn.Parameter(whole.detach()[:3].clone()), nn.Parameter(whole.detach()[3:].clone())]
    one = Soap([whole], block_size=3, precondition_frequency=2, lr=0.02)
    two = Soap(pieces, precondition_frequency=2, lr=0.02)
    for step in range(1, 9):
        whole.grad = gradient(0, step, (5, 3))
        pieces[0].grad, pieces[1].grad = whole.grad[:3].clone(), whole.grad[3:].clone()
        one.step()
        two.step()
        assert whole.isfinite().all()
    assert distance([whole.detach()[:3]], pieces[:1]) < 1e-12
    filled = one.state[whole]["basis_rows"][1]
    torch.testing.assert_close(filled @ filled.mT, torch.eye(3, dtype=torch.float64))


# The basis -------------------------------------------------------------------------------------


def test_the_first_step_finds_bases_and_moves_nothing():
    params = parameters()
    optimizer = Soap(params, weight_decay=0.0)
    walk(optimizer, params, 1)
    assert distance(params, parameters()) == 0
    for index, param in enumerate(params[:4]):
        entry, grad = optimizer.state[param], gradient(index, 1, tuple(param.shape))
        assert not entry["exp_avg"].any()
        assert not entry["exp_avg_sq"].any()
        rotated = entry["basis_rows"].mT @ grad @ entry["basis_columns"]
        diagonal = rotated.diagonal()
        assert rotated.square().sum() == pytest.approx(float(diagonal.square().sum()), rel=1e-12)
        assert torch.equal(diagonal.abs().argsort(descending=True), torch.arange(len(diagonal)))


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_the_first_basis_of_a_longer_side_does_not_hang_on_rounding_errors(shape: tuple[int, int]):
    bases: list[Tensor] = []
    for error in (0.0, 1e-14):
        (param,) = parameters((shape,))
        param.grad = gradient(0, 1, shape) * (1 + error * gradient(0, 2, shape))
        optimizer = Soap([param])
        optimizer.step()
        bases.append(optimizer.state[param]["basis_rows" if shape[0] == 9 else "basis_columns"])
    torch.testing.assert_close(bases[0] @ bases[0].mT, torch.eye(9, dtype=torch.float64))
    assert 0 < distance([bases[0]], [bases[1]]) < 1e-11


@pytest.mark.parametrize("frequency", [1, 4])
def test_bases_stay_orthogonal_and_ordered(frequency: int):
    params = parameters(dtype=torch.float32)
    optimizer = Soap(params, precondition_frequency=frequency)
    walk(optimizer, params, 60)
    for param in params[:4]:
        for side in SIDES:
            basis = optimizer.state[param][f"basis_{side}"]
            error = basis.mT @ basis - torch.eye(len(basis))
            assert error.abs().max() < 1e-5


def test_bases_approach_the_eigenvectors_of_a_constant_gram_matrix():
    param = nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))
    optimizer = Soap([param], lr=0.0, precondition_frequency=1)
    generator = torch.Generator().manual_seed(0)

    def normal() -> Tensor:
        return torch.randn(4, 4, generator=generator, dtype=torch.float64)

    param.grad = normal()
    optimizer.step()
    turn = torch.linalg.qr(normal()).Q
    param.grad = turn @ torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0]).double())
    for _ in range(400):
        optimizer.step()
    overlap = (turn * optimizer.state[param]["basis_rows"]).sum(0).abs()
    torch.testing.assert_close(overlap, torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("frequency", [1, 3])
def test_rotations_of_the_gradients_rotate_the_steps(frequency: int):
    start, gradients = arrays(0, (6, 6), 20)
    turns = [torch.linalg.qr(gradient(i, 99, (6, 6))).Q for i in (7, 8)]
    plain = nn.Parameter(torch.zeros(6, 6, dtype=torch.float64))
    turned = nn.Parameter(torch.zeros(6, 6, dtype=torch.float64))
    for param, rotates in ((plain, False), (turned, True)):
        optimizer = Soap([param], precondition_frequency=frequency, lr=0.02)
        for array in [start, *gradients]:
            grad = torch.from_numpy(array)
            param.grad = turns[0] @ grad @ turns[1] if rotates else grad
            optimizer.step()
    assert plain.abs().max() > 0.1
    torch.testing.assert_close(
        turned.detach(), turns[0] @ plain.detach() @ turns[1], rtol=0, atol=1e-9
    )


@pytest.mark.parametrize(
    ("shape", "role", "settings", "rotated"),
    [
        ((6, 4), "matrix", {}, "rows columns"),
        ((20, 4), "matrix", {}, "columns"),
        ((4, 20), "matrix", {}, "rows"),
        ((20, 30), "matrix", {}, ""),
        ((6, 4), "embedding", {}, "columns"),
        ((6, 4), "head", {}, "columns"),
        ((1, 4), "matrix", {}, "columns"),
        ((7,), "norm", {}, ""),
        ((7,), "norm", {"rotate_vectors": True}, "rows"),
        ((), "norm", {"rotate_vectors": True}, ""),
        ((3, 2, 2), "norm", {}, "rows columns"),
    ],
)
def test_rotated_sides_by_shape_and_role(
    shape: tuple[int, ...], role: str, settings: dict[str, Any], rotated: str
):
    params = parameters((shape,))
    optimizer = Soap([{"params": params, "role": role}], max_precond_dim=10, **settings)
    walk(optimizer, params, 3)
    state = optimizer.state[params[0]]
    assert [side for side in SIDES if f"basis_{side}" in state] == rotated.split()
    assert state["exp_avg"].shape == shape
    assert params[0].isfinite().all()


def test_without_rotation_it_is_adam_one_step_late():
    ours, theirs = (parameters(((6, 4), (5,))) for _ in range(2))
    settings = {"lr": 0.02, "weight_decay": 0.0, "eps": 0.0}
    walk(Soap(ours, max_precond_dim=0, beta1=0.9, beta2=0.95, **settings), ours, 6)
    adam = torch.optim.AdamW(theirs, betas=(0.9, 0.95), **settings)
    walk(adam, theirs, range(2, 7))
    assert distance(ours, theirs) < 1e-12


# Checkpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [{}, {"block_size": 4}, dict(Soap.paper)])
@pytest.mark.parametrize("stop", [1, 3, 4, 5])
def test_resume_around_a_refresh_is_bitwise(stop: int, form: dict[str, Any]):
    """With a refresh every third step, after step 4 (or 3, if the first counts)."""
    through, first = (parameters(dtype=torch.float32) for _ in range(2))
    unbroken, begun = (Soap(p, precondition_frequency=3, **form) for p in (through, first))
    walk(unbroken, through, 12)
    walk(begun, first, stop)
    file = io.BytesIO()
    torch.save(begun.state_dict(), file)
    file.seek(0)
    second = [nn.Parameter(param.detach().clone()) for param in first]
    resumed = Soap(second, precondition_frequency=3, **form)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    walk(resumed, second, range(stop + 1, 13))
    assert distance(through, second) == 0
    pairs = zip(state_tensors(unbroken), state_tensors(resumed), strict=True)
    assert all(torch.equal(a[2], b[2]) for a, b in pairs)


@pytest.mark.parametrize("form", [{}, {"block_size": 4}])
@pytest.mark.parametrize("shape", [(8, 8), (64, 16), (12, 16)])
def test_state_takes_the_documented_memory(shape: tuple[int, int], form: dict[str, int]):
    (param,) = parameters((shape,), torch.float32)
    optimizer = Soap([param], **form)
    walk(optimizer, [param], 1)
    m, n = (4, 4) if form else shape
    nbytes = sum(value.nbytes for _, _, value in state_tensors(optimizer))
    assert nbytes == 8 * (1 + (m * m + n * n) / (m * n)) * param.numel()


def test_the_process_keeps_its_float32_precision():
    params = parameters(dtype=torch.float32)
    optimizer = Soap(params)
    backend = torch.backends.cuda.matmul
    before = backend.fp32_precision
    backend.fp32_precision = "tf32"
    try:
        walk(optimizer, params, 2)
        assert backend.fp32_precision == "tf32"
    finally:
        backend.fp32_precision = before


# Degenerate inputs -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", [{}, {"block_size": 4}, dict(Soap.paper)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_and_rank_one_gradients_stay_finite(dtype: torch.dtype, form: dict[str, Any]):
    params = [nn.Parameter(torch.zeros(s, dtype=dtype)) for s in ((6, 6), (6, 10), (10, 6), (5,))]
    optimizer = Soap(params, precondition_frequency=2, **form)
    for step in range(1, 30):
        for i, param in enumerate(params):
            grad = torch.zeros_like(param) if i == 0 else torch.ones_like(param)
            param.grad = grad * (1 + 0.1 * (step % 3))
        optimizer.step()
    assert all(param.isfinite().all() for param in params)
    assert not params[0].any()
    assert all(param.abs().max() > 0 for param in params[1:])
    assert all(value.isfinite().all() for _, _, value in state_tensors(optimizer))


def test_a_matrix_that_gets_its_first_gradient_late_is_stepped():
    (param,) = parameters(((6, 4),))
    optimizer = Soap([param], precondition_frequency=2, weight_decay=0.0)
    param.grad = torch.zeros_like(param)
    for _ in range(3):
        optimizer.step()
    walk(optimizer, [param], range(4, 10))
    assert param.isfinite().all()
    assert distance([param], parameters(((6, 4),))) > 0


@pytest.mark.parametrize("frequency", [1, 10])
def test_a_nan_in_the_first_gradient_stays_in_its_matrix(frequency: int):
    params = parameters(((6, 4), (6, 4)))
    optimizer = Soap(params, precondition_frequency=frequency)
    for step in range(1, 4):
        for index, param in enumerate(params):
            param.grad = gradient(index, step, (6, 4))
        if step == 1:
            params[1].grad[2, 2] = torch.nan
        optimizer.step()
    assert params[0].isfinite().all()
    assert params[1].isnan().any()
    (alone,) = parameters(((6, 4),))
    walk(Soap([alone], precondition_frequency=frequency), [alone], 3)
    assert distance(params[:1], [alone]) < 1e-12
