"""The float64 references against closed forms, none of which needs an implementation."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.optimizers.reference_adam_mini import (
    ReferenceAdamMini,
    element_blocks,
    head_blocks,
    row_blocks,
    tensor_block,
)
from tests.optimizers.reference_cautious import ReferenceCautious
from tests.optimizers.reference_kron import ReferenceKron, norm_lower_bound
from tests.optimizers.reference_mars import ReferenceMars
from tests.optimizers.reference_scion import ReferenceScion, newton_schulz
from tests.optimizers.reference_soap import ReferenceSoap
from tests.optimizers.reference_sophia import ReferenceSophiaG, ReferenceSophiaH

Array = NDArray[np.float64]


def gaussians(seed: int, count: int, *shape: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for _ in range(count)]


def adam_direction(grads: list[Array], beta1: float, beta2: float, eps: float) -> Array:
    """Adam's last update as a ratio of weighted means of all gradients, without any state."""
    age = np.arange(len(grads))[::-1]
    mean = sum(beta1**a * g for a, g in zip(age, grads, strict=True)) / np.sum(beta1**age)
    square = sum(beta2**a * g**2 for a, g in zip(age, grads, strict=True)) / np.sum(beta2**age)
    return mean / (np.sqrt(square) + eps)


def adamw_path(p: Array, grads: list[Array], lr: float, decay: float, *betas_eps: float) -> Array:
    for t in range(1, len(grads) + 1):
        p = (1 - lr * decay) * p - lr * adam_direction(grads[:t], *betas_eps)
    return p


def orthogonal(seed: int, n: int) -> Array:
    return np.linalg.qr(gaussians(seed, 1, n, n)[0])[0]


def spectral_norm(w: Array) -> float:
    return float(np.linalg.norm(w, 2))


class TestMars:
    def mars(self, params: list[Array], **changed: object) -> ReferenceMars:
        settings: dict = dict(lr=0.1, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.3, gamma=0.02)
        return ReferenceMars(params, roles=["matrix"] * len(params), **(settings | changed))

    def test_without_correction_and_clip_it_is_adamw(self):
        p, *grads = gaussians(0, 13, 3, 4)
        mars = self.mars([p], gamma=0.0, max_grad_norm=0.0)
        for g in grads:
            mars.step([g])
        np.testing.assert_allclose(
            mars.params[0], adamw_path(p, grads, 0.1, 0.3, 0.9, 0.99, 1e-8), rtol=1e-12
        )

    def test_it_is_adamw_on_the_corrected_gradients(self):
        p, *grads = gaussians(1, 9, 3, 4)
        mars = self.mars([p], max_grad_norm=0.0)
        for g in grads:
            mars.step([g])
        shifted = [np.zeros_like(p), *grads[:-1]]
        corrected = [g + 0.02 * 9 * (g - h) for g, h in zip(grads, shifted, strict=True)]
        np.testing.assert_allclose(
            mars.params[0], adamw_path(p, corrected, 0.1, 0.3, 0.9, 0.99, 1e-8), rtol=1e-12
        )

    def test_equal_gradients_need_no_correction_even_in_a_reused_buffer(self):
        p, first, second = gaussians(2, 3, 2, 2)
        mars = self.mars([p], max_grad_norm=0.0)
        buffer = first.copy()
        mars.step([buffer])
        mars.step([buffer])
        np.testing.assert_array_equal(mars.corrected[0], first)
        buffer[:] = second
        mars.step([buffer])
        np.testing.assert_allclose(mars.corrected[0], second + 0.18 * (second - first))

    def test_clip_scopes_differ_by_what_the_norm_is_taken_over(self):
        a, b = np.full((1, 1), 0.6), np.full((1, 1), 0.8 * 2)
        tensor = self.mars([a, b], gamma=0.0)
        whole = self.mars([a, b], gamma=0.0, clip_scope="global")
        tensor.step([a, b])
        whole.step([a, b])
        np.testing.assert_allclose(np.ravel(tensor.corrected), [0.6, 1.0])
        np.testing.assert_allclose(np.ravel(whole.corrected), np.array([0.6, 1.6]) / np.sqrt(2.92))
        guarded = self.mars([a, b], gamma=0.0, clip_eps=0.5)
        guarded.step([a, b])
        np.testing.assert_allclose(np.ravel(guarded.corrected), [0.6 / 1.1, 1.6 / 2.1])

    def test_vectors_are_adamw_at_their_own_rate_unless_asked_for(self):
        p, *grads = gaussians(3, 6, 5)
        official = self.mars([p], gamma=0.5, lr_1d_ratio=0.5, weight_decay_1d=0.2)
        corrected = self.mars([p], gamma=0.5, one_dimensional="mars")
        for g in grads:
            official.step([g])
            corrected.step([g])
        np.testing.assert_allclose(
            official.params[0], adamw_path(p, grads, 0.05, 0.2, 0.9, 0.95, 1e-8), rtol=1e-12
        )
        assert np.linalg.norm(corrected.corrected[0]) <= 1 + 1e-12


class TestCautious:
    def cautious(self, params: list[Array], **changed: object) -> ReferenceCautious:
        settings: dict = dict(lr=0.1, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.3)
        return ReferenceCautious(params, roles=["matrix"] * len(params), **(settings | changed))

    def test_agreeing_signs_give_adamw(self):
        p, *grads = gaussians(4, 9, 3, 4)
        sign = np.sign(grads[0])
        grads = [sign * np.abs(g) for g in grads]
        cautious = self.cautious([p])
        for g in grads:
            cautious.step([g])
        np.testing.assert_allclose(
            cautious.params[0], adamw_path(p, grads, 0.1, 0.3, 0.9, 0.99, 1e-8), rtol=1e-12
        )

    @pytest.mark.parametrize("scaling", ["clamp", "mean_plus_eps"])
    def test_no_agreement_leaves_the_decay_alone(self, scaling: str):
        (p,) = gaussians(5, 1, 3, 4)
        cautious = self.cautious([p], scaling=scaling, weight_decay=0.0)
        cautious.step([np.ones((3, 4))])
        before = cautious.params[0]
        cautious.weight_decay = 0.3
        cautious.step([np.full((3, 4), -1e-3)])
        np.testing.assert_allclose(cautious.params[0], before * (1 - 0.1 * 0.3), rtol=1e-14)

    def test_a_half_mask_doubles_what_it_leaves(self):
        zero = np.zeros((1, 4))
        cautious = self.cautious([zero])
        cautious.step([np.ones((1, 4))])
        grads = [np.ones((1, 4)), np.array([[1.0, 1.0, -0.1, -0.1]])]
        before = cautious.params[0]
        cautious.step([grads[1]])
        u = adam_direction(grads, 0.9, 0.99, 1e-8) * [[2.0, 2.0, 0.0, 0.0]]
        np.testing.assert_allclose(cautious.params[0], 0.97 * before - 0.1 * u, rtol=1e-12)

    @pytest.mark.parametrize(("scaling", "scale"), [("clamp", 1e3), ("mean_plus_eps", 5000)])
    def test_the_floor_bounds_the_scale_of_a_lone_coordinate(self, scaling: str, scale: float):
        g = np.zeros((50, 100))
        g[3, 4] = 2.0
        cautious = self.cautious([np.zeros_like(g)], scaling=scaling, eps=1e-15)
        cautious.step([g])
        np.testing.assert_allclose(cautious.params[0][3, 4], -0.1 * scale, rtol=1e-9)
        assert np.count_nonzero(cautious.params[0]) == 1

    def test_a_stack_shares_its_mean(self):
        grads = [np.ones((1, 2)), np.zeros((1, 2))]
        apart = self.cautious([np.zeros((1, 2))] * 2)
        together = self.cautious([np.zeros((1, 2))] * 2, stacks=[[0, 1]])
        apart.step(grads)
        together.step(grads)
        np.testing.assert_allclose(together.params[0], 2 * apart.params[0], rtol=1e-12)


class TestAdamMini:
    def mini(self, p: Array, blocks: NDArray[np.int64] | None, **changed: object):
        settings: dict = dict(lr=0.1, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.3)
        role = "norm" if p.ndim == 1 else "matrix"
        return ReferenceAdamMini([p], roles=[role], blocks=[blocks], **(settings | changed))

    def test_one_element_a_block_is_adamw(self):
        p, *grads = gaussians(6, 9, 3, 4)
        mini = self.mini(p, element_blocks((3, 4)))
        for g in grads:
            mini.step([g])
        np.testing.assert_allclose(
            mini.params[0], adamw_path(p, grads, 0.1, 0.3, 0.9, 0.99, 1e-8), rtol=1e-12
        )

    @pytest.mark.parametrize(
        ("blocks", "rows"), [(row_blocks((6, 4)), 1), (head_blocks((6, 4), 3), 2)]
    )
    def test_a_first_update_has_rms_one_in_every_block(self, blocks: NDArray[np.int64], rows: int):
        (g,) = gaussians(7, 1, 6, 4)
        mini = self.mini(np.zeros((6, 4)), blocks)
        mini.step([g])
        rms = np.sqrt(np.mean((mini.params[0] / 0.1).reshape(6 // rows, -1) ** 2, axis=1))
        np.testing.assert_allclose(rms, 1.0, rtol=1e-6)
        assert len(mini.v[0]) == 6 // rows

    def test_constant_magnitudes_make_every_partition_adamw(self):
        p, *signs = gaussians(8, 9, 4, 4)
        grads = [(t + 1) * np.sign(s) for t, s in enumerate(signs)]
        expected = adamw_path(p, grads, 0.1, 0.3, 0.9, 0.99, 1e-8)
        for blocks in (tensor_block((4, 4)), row_blocks((4, 4)), head_blocks((4, 4), 2)):
            mini = self.mini(p, blocks)
            for g in grads:
                mini.step([g])
            np.testing.assert_allclose(mini.params[0], expected, rtol=1e-12)

    def test_gains_have_one_number_or_one_each_and_no_decay(self):
        g = np.array([3.0, 4.0])
        scalar = self.mini(np.ones(2), None, eps=0.0)
        element = self.mini(np.ones(2), None, eps=0.0, norm_blocks="element")
        scalar.step([g])
        element.step([g])
        np.testing.assert_allclose(scalar.params[0], 1 - 0.1 * g / np.sqrt(12.5))
        np.testing.assert_allclose(element.params[0], [0.9, 0.9])

    def test_the_clip_of_gains_is_over_gains_alone(self):
        mini = ReferenceAdamMini(
            [np.zeros((1, 1)), np.zeros(1), np.zeros(1)],
            roles=["matrix", "norm", "norm"],
            blocks=[row_blocks((1, 1)), None, None],
            lr=0.1,
            beta1=0.0,
            beta2=0.0,
            eps=0.0,
            weight_decay=0.0,
            norm_clip=1.0,
        )
        mini.step([np.full((1, 1), 7.0), np.array([3.0]), np.array([4.0])])
        np.testing.assert_allclose([float(v[0]) for v in mini.v], [49.0, 0.36, 0.64])


class TestScion:
    def scion(self, params: list[Array], roles: list[str], **changed: object) -> ReferenceScion:
        settings: dict = dict(lr=0.1, momentum=0.9)
        return ReferenceScion(params, roles=roles, **(settings | changed))

    def test_newton_schulz_is_the_quintic_of_the_singular_values(self):
        (m,) = gaussians(9, 1, 5, 8)
        u, s, vt = np.linalg.svd(m, full_matrices=False)
        s = s / np.sqrt(np.sum(s**2))
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        np.testing.assert_allclose(newton_schulz(m, 5, 0.0), u * s @ vt, atol=1e-12)
        np.testing.assert_allclose(newton_schulz(m.T, 5, 0.0), (u * s @ vt).T, atol=1e-12)
        np.testing.assert_allclose(newton_schulz(7 * m, 5, 0.0), u * s @ vt, atol=1e-12)

    def test_newton_schulz_leaves_singular_values_in_their_band(self):
        (m,) = gaussians(10, 1, 512, 512)
        five, ten = (np.linalg.svd(newton_schulz(m, k, 1e-7), compute_uv=False) for k in (5, 10))
        assert 0 < five.min() < five.max() < 1.21
        assert five.mean() == pytest.approx(0.92, abs=0.01)
        assert 0.68 < ten.min() < ten.max() < 1.135
        assert ten.mean() == pytest.approx(0.865, abs=0.01)

    @pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
    def test_constrained_iterates_stay_in_their_balls(self, shape: tuple[int, int]):
        rows, columns = shape
        roles = ["matrix", "head", "embedding", "norm"]
        params = [np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros(3)]
        scion = self.scion(
            params, roles, lr=0.7, radius_matrix=2.0, radius_head=5.0, radius_norm=0.5
        )
        streams = [gaussians(11 + i, 40, *p.shape) for i, p in enumerate(params)]
        for grads in zip(*streams, strict=True):
            scion.step(list(grads))
            matrix, head, embedding, norm = scion.params
            assert spectral_norm(matrix) <= 1.21 * 2.0 * np.sqrt(rows / columns)
            assert np.abs(head).max() <= 5.0 / columns * (1 + 1e-12)
            assert np.abs(embedding).max() <= 3000.0 * (1 + 1e-12)
            assert np.abs(norm).max() <= 0.5 * (1 + 1e-12)

    def test_a_full_step_forgets_the_point_unless_unconstrained(self):
        w, g = gaussians(12, 2, 3, 4)
        constrained = self.scion([w], ["head"], lr=1.0, radius_head=8.0)
        free = self.scion([w], ["head"], lr=1.0, radius_head=8.0, form="unconstrained")
        constrained.step([g])
        free.step([g])
        np.testing.assert_allclose(constrained.params[0], -2 * np.sign(g), rtol=1e-12)
        np.testing.assert_allclose(free.params[0], w - 2 * np.sign(g), rtol=1e-12)

    def test_root_mean_square_oracles_have_unit_rms(self):
        embedding_grad, norm_grad = gaussians(13, 1, 5, 4)[0], gaussians(14, 1, 6)[0]
        embedding_grad[2] = 0.0
        scion = self.scion(
            [np.zeros((5, 4)), np.zeros(6)],
            ["embedding", "norm"],
            lr=1.0,
            radius_embedding=1.0,
            embedding_lmo="token_rms",
            norm_lmo="rms",
        )
        scion.step([embedding_grad, norm_grad])
        rms = np.sqrt(np.mean(scion.params[0] ** 2, axis=1))
        np.testing.assert_allclose(rms, [1, 1, 0, 1, 1], rtol=1e-6)
        assert np.sqrt(np.mean(scion.params[1] ** 2)) == pytest.approx(1.0, rel=1e-6)

    def test_momentum_is_the_weighted_mean_of_gradients(self):
        grads = gaussians(15, 5, 3, 4)
        scion = self.scion([np.zeros((3, 4))], ["head"])
        for g in grads:
            scion.step([g])
        mean = sum(0.1 * 0.9 ** (4 - t) * g for t, g in enumerate(grads))
        np.testing.assert_allclose(scion.m[0], mean, rtol=1e-12)

    def test_the_radius_is_the_inverse_of_the_decay_on_wide_matrices_of_one_side(self):
        # √(m/n) and √max(1, m/n) agree on square matrices: ρ = 1/λ and lr = λ lr' tie the forms.
        w, *grads = gaussians(16, 7, 4, 4)
        constrained = self.scion([w], ["matrix"], lr=0.02, radius_matrix=5.0)
        decayed = self.scion([w], ["matrix"], lr=0.1, form="paper", weight_decay=0.2)
        for g in grads:
            constrained.step([g])
            decayed.step([g])
        np.testing.assert_allclose(constrained.params[0], decayed.params[0], rtol=1e-12)

    def test_the_paper_form_steps_the_rest_by_signum(self):
        w, g = gaussians(17, 2, 3, 4)
        scion = self.scion(
            [w, w], ["head", "embedding"], form="paper", weight_decay=0.5, signum_lr_ratio=0.2
        )
        scion.step([g, g])
        np.testing.assert_allclose(scion.params[0], w - 0.02 * (np.sign(g) + 0.5 * w), rtol=1e-12)
        np.testing.assert_allclose(scion.params[1], w - 0.02 * np.sign(g), rtol=1e-12)

    def test_the_paper_clip_weighs_signum_gradients_alone(self):
        g = np.array([[3.0, 4.0]])
        scion = self.scion([g, g], ["matrix", "head"], form="paper", beta1=0.5, max_grad_norm=1.0)
        scion.step([g, g])
        np.testing.assert_allclose(scion.m[0], 0.1 * g)
        np.testing.assert_allclose(scion.m[1], 0.5 * g / 5)


class TestKron:
    def kron(self, params: list[Array], **changed: object) -> ReferenceKron:
        settings: dict = dict(lr=0.1, beta1=0.0, weight_decay=0.0, preconditioner_lr=0.1)
        roles = ["norm" if p.ndim == 1 else "matrix" for p in params]
        return ReferenceKron(params, roles=roles, **(settings | changed))

    def test_the_norm_bound_lies_between_the_longest_column_and_the_spectral_norm(self):
        for x in gaussians(18, 20, 6, 9):
            s = x @ x.T
            assert norm_lower_bound(s) <= spectral_norm(s) * (1 + 1e-12)
            assert norm_lower_bound(s) >= np.linalg.norm(s, axis=0).max() * (1 - 1e-12)
        assert norm_lower_bound(np.diag([3.0, -5.0])) == 5.0
        assert norm_lower_bound(np.zeros((2, 2))) == 0.0
        # Longest column (2, 1); one power step of it is (5, 4); its image (14, 13) over √41.
        s = np.array([[2.0, 1.0], [1.0, 2.0]])
        assert norm_lower_bound(s) == pytest.approx(np.sqrt((14**2 + 13**2) / 41), rel=1e-14)

    @pytest.mark.parametrize(("origin", "count"), [(0, 2745), (1, 2744)])
    def test_the_schedule_updates_at_the_inverse_probability(self, origin: int, count: int):
        kron = self.kron([], flat_start=2000, update_probability=0.05, schedule_origin=origin)
        realised = []
        for _ in range(5120):
            realised.append(kron.will_update())
            kron.step([], noise=[])
        assert all(realised[:2000])
        assert sum(realised) == kron.updates == count
        assert np.diff(np.flatnonzero(realised)).max() == 20

    @pytest.mark.parametrize("diagonal_above", [9, 3, 1])
    def test_a_gradient_the_factors_whiten_leaves_them(self, diagonal_above: int):
        v = gaussians(19, 1, 4, 3)[0]
        kron = self.kron([np.zeros((4, 3))], damping=0.0, diagonal_above=diagonal_above)
        q1, q2 = (np.triu(gaussians(20 + n, 1, n, n)[0]) + 3 * np.eye(n) for n in (4, 3))
        q1, q2 = (np.diag(np.diag(q)) if len(q) > diagonal_above else q for q in (q1, q2))
        kron.factors[0][0] = [q1, q2]
        inverse1, inverse2 = np.linalg.inv(q1.T @ q1), np.linalg.inv(q2.T @ q2)
        kron.step([inverse1 @ v @ inverse2], noise=[v])
        np.testing.assert_allclose(kron.factors[0][0][0], q1, atol=1e-12)
        np.testing.assert_allclose(kron.factors[0][0][1], q2, atol=1e-12)
        np.testing.assert_allclose(kron.params[0], -0.1 * v / max(1, _rms(v) / 1.1), atol=1e-12)

    def test_one_number_moves_by_the_relative_difference(self):
        kron = self.kron([np.zeros(1)], damping=0.0, rms_clip=np.inf)
        kron.step([np.array([3.0])], noise=[np.array([2.0])])
        q = 1 - 0.1 * (9 - 4) / (9 + 4)
        np.testing.assert_allclose(kron.factors[0][0][0], [[q]], rtol=1e-14)
        np.testing.assert_allclose(kron.params[0], [-0.1 * q**2 * 3], rtol=1e-14)

    def test_damping_is_relative_to_the_mean_of_the_corrected_momentum(self):
        g, v = np.array([3.0, -1.0]), np.array([1.0, 2.0])
        kron = self.kron([np.zeros(2)], damping=0.5, beta1=0.9, rms_clip=np.inf)
        kron.step([g], noise=[v])
        damped = g + 0.5 * 2 * v
        q = 1 - 0.1 * (damped**2 - v**2) / np.max(damped**2 + v**2)
        np.testing.assert_allclose(np.diag(kron.factors[0][0][0]), q, rtol=1e-13)
        np.testing.assert_allclose(kron.params[0], -0.1 * q**2 * g, rtol=1e-13)

    @pytest.mark.parametrize("diagonal_above", [9, 1])
    def test_many_updates_whiten_gaussian_gradients(self, diagonal_above: int):
        rng = np.random.default_rng(21)
        root1, root2 = np.diag([4.0, 1.0, 0.3]), np.diag([2.0, 0.5])
        if diagonal_above == 9:
            root1, root2 = orthogonal(22, 3) @ root1, orthogonal(23, 2) @ root2
        kron = self.kron([np.zeros((3, 2))], diagonal_above=diagonal_above, flat_start=2000, lr=0.0)
        left, right = np.zeros((3, 3)), np.zeros((2, 2))
        for t in range(2000):
            kron.preconditioner_lr = 0.1 if t < 600 else 0.01
            g = root1 @ rng.standard_normal((3, 2)) @ root2.T
            kron.step([g], noise=[rng.standard_normal((3, 2))])
            if t >= 1200:
                # For U = R1 Z R2ᵀ with Z standard normal, E[UUᵀ] = R1R1ᵀ trace(R2R2ᵀ).
                q1, q2 = kron.factors[0][0]
                r1, r2 = q1.T @ q1 @ root1, q2.T @ q2 @ root2
                left += r1 @ r1.T * np.sum(r2**2) / 2 / 800
                right += r2 @ r2.T * np.sum(r1**2) / 3 / 800
        np.testing.assert_allclose(left, np.eye(3), atol=0.15)
        np.testing.assert_allclose(right, np.eye(2), atol=0.15)

    def test_factors_stay_triangular_and_blocks_apart(self):
        p, *both = gaussians(24, 9, 5, 4)
        blocked = self.kron([p], block_size=3, rms_clip=np.inf, damping=0.0)
        corner = self.kron([p[:3, 3:]], rms_clip=np.inf, damping=0.0)
        for g, v in zip(both[::2], both[1::2], strict=True):
            blocked.step([g], noise=[v])
            corner.step([g[:3, 3:]], noise=[v[:3, 3:]])
        assert [tuple(len(q) for q in qs) for qs in blocked.factors[0]] == [
            (3, 3),
            (3, 1),
            (2, 3),
            (2, 1),
        ]
        for q in (q for qs in blocked.factors[0] for q in qs):
            np.testing.assert_array_equal(q, np.triu(q))
        np.testing.assert_array_equal(blocked.params[0][:3, 3:], corner.params[0])

    def test_balance_equalises_the_maxima_and_keeps_the_product(self):
        (v,) = gaussians(25, 1, 3, 2)
        kron = self.kron([np.zeros((3, 2))], preconditioner_lr=0.0, balance_every=2)
        kron.factors[0][0] = [8 * np.eye(3), 0.5 * np.eye(2)]
        kron.step([v], noise=[v])
        np.testing.assert_allclose(kron.factors[0][0][0], 8 * np.eye(3))
        kron.step([v], noise=[v])
        np.testing.assert_allclose(kron.factors[0][0][0], 2 * np.eye(3))
        np.testing.assert_allclose(kron.factors[0][0][1], 2 * np.eye(2))

    def test_updates_are_clipped_to_their_rms_and_gradients_normalised(self):
        (g,) = gaussians(26, 1, 3, 2)
        kron = self.kron([np.zeros((3, 2))] * 2, preconditioner_lr=0.0)
        kron.step([100 * g, 0.1 * g], noise=[g, g])
        assert _rms(kron.params[0]) == pytest.approx(0.11, rel=1e-12)
        np.testing.assert_allclose(kron.params[1], -0.01 * g, rtol=1e-12)
        normalised = self.kron([np.zeros((3, 2))], preconditioner_lr=0.0, normalize_grads=True)
        normalised.step([100 * g], noise=[g])
        np.testing.assert_allclose(normalised.params[0], -0.1 * g / np.linalg.norm(g), rtol=1e-12)


def _rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x**2)))


class TestSoap:
    def soap(self, params: list[Array], **changed: object) -> ReferenceSoap:
        settings: dict = dict(
            lr=0.1, beta1=0.9, beta2=0.99, eps=1e-10, weight_decay=0.3, shampoo_beta=0.9
        )
        settings |= dict(precondition_frequency=1)
        roles = ["norm" if p.ndim == 1 else "matrix" for p in params]
        return ReferenceSoap(params, roles=roles, **(settings | changed))

    @pytest.mark.parametrize("frequency", [1, 3])
    def test_diagonal_gradients_are_adam_on_the_diagonal(self, frequency: int):
        # Magnitudes change places often, so columns are re-ordered and V must follow.
        diagonals = [np.roll([9.0, 3.0, 1.0, 0.3], t // 2) * (1 + 0.1 * t) for t in range(14)]
        soap = self.soap([np.zeros((4, 4))], precondition_frequency=frequency, shampoo_beta=0.5)
        orders = set()
        for d in diagonals:
            soap.step([np.diag(d)])
            orders.add(tuple(np.argmax(np.abs(soap.bases[0][0]), axis=0)))
        expected = adamw_path(np.zeros(4), diagonals[1:], 0.1, 0.3, 0.9, 0.99, 0.0)
        np.testing.assert_allclose(np.diag(soap.params[0]), expected, rtol=1e-7)
        # Off the diagonal are rounding errors over eps.
        np.testing.assert_allclose(soap.params[0], np.diag(expected), atol=1e-5)
        assert len(orders) > 2

    @pytest.mark.parametrize("max_precond_dim", [10, 3])
    @pytest.mark.parametrize("gram_first", [True, False])
    def test_it_turns_with_the_coordinates(self, max_precond_dim: int, gram_first: bool):
        p, *grads = gaussians(27, 11, 4, 3)
        grads = [np.vstack([g[:3], g[:3].sum(axis=0) + 0.3 * g[3]]) for g in grads]
        left = orthogonal(28, 4) if max_precond_dim == 10 else np.eye(4)
        right = orthogonal(29, 3)
        settings = dict(
            max_precond_dim=max_precond_dim, gram_first=gram_first, precondition_frequency=2
        )
        plain = self.soap([p], **settings)
        turned = self.soap([left @ p @ right.T], **settings)
        for t, g in enumerate(grads):
            plain.step([g])
            turned.step([left @ g @ right.T])
            if t == 0:
                # L of a tall gradient has a null space: give both the same vector in it.
                turned.bases[0][0] = left @ plain.bases[0][0]
        np.testing.assert_allclose(turned.params[0], left @ plain.params[0] @ right.T, atol=1e-9)

    def test_the_first_step_only_sets_the_basis(self):
        p, g = gaussians(30, 2, 3, 3)
        soap = self.soap([p])
        soap.step([g])
        np.testing.assert_array_equal(soap.params[0], p)
        np.testing.assert_allclose(soap.grams[0][0], 0.1 * g @ g.T)
        for side in (0, 1):
            basis, gram = soap.bases[0][side], soap.grams[0][side]
            diagonal = basis.T @ gram @ basis
            np.testing.assert_allclose(diagonal, np.diag(np.diag(diagonal)), atol=1e-12)
            assert np.all(np.diff(np.diag(diagonal)) < 0)

    def test_repeated_refreshes_converge_to_the_eigenbasis(self):
        (g,) = gaussians(31, 1, 4, 4)
        soap = self.soap([np.zeros((4, 4))])
        soap.step([np.eye(4)])
        for _ in range(400):
            soap.step([g])
        for side, gram in enumerate((g @ g.T, g.T @ g)):
            basis = soap.bases[0][side]
            values, vectors = np.linalg.eigh(gram)
            overlap = np.abs(basis.T @ vectors[:, ::-1])
            np.testing.assert_allclose(overlap, np.eye(4), atol=1e-5)
            np.testing.assert_allclose(np.diag(basis.T @ gram @ basis), values[::-1], rtol=1e-6)

    def test_unrotated_arrays_are_adam_with_or_without_the_skipped_step(self):
        p, *grads = gaussians(32, 8, 5)
        skipping = self.soap([p], eps=0.0)
        full = self.soap([p], eps=0.2, adam_skips_first_step=False, adam_eps_outside=True)
        for g in grads:
            skipping.step([g])
            full.step([g])
        np.testing.assert_allclose(
            skipping.params[0], adamw_path(p, grads[1:], 0.1, 0.0, 0.9, 0.99, 0.0), rtol=1e-12
        )
        np.testing.assert_allclose(
            full.params[0], adamw_path(p, grads, 0.1, 0.0, 0.9, 0.99, 0.2), rtol=1e-12
        )

    def test_counting_the_skipped_step_shrinks_early_updates(self):
        (g,) = gaussians(33, 1, 3, 3)
        settings = dict(beta1=0.95, beta2=0.98, weight_decay=0.0, precondition_frequency=100)
        official = self.soap([np.zeros((3, 3))], **settings)
        paper = self.soap([np.zeros((3, 3))], count_skipped_step=True, **settings)
        ratios = []
        for _ in range(11):
            before = official.params[0], paper.params[0]
            official.step([g])
            paper.step([g])
            moved = np.abs(official.params[0] - before[0]).max()
            ratios.append(np.abs(paper.params[0] - before[1]).max() / moved if moved else 0.0)
        np.testing.assert_allclose(
            [ratios[k] for k in (1, 2, 5, 10)], [0.72, 0.835, 0.93, 0.97], atol=5e-3
        )

    def test_the_refresh_sees_the_current_gradient_only_if_grams_come_first(self):
        first, second = np.diag([2.0, 1.0]), np.diag([1.0, 50.0])
        for gram_first, leader in ((True, 1), (False, 0)):
            soap = self.soap([np.zeros((2, 2))], gram_first=gram_first)
            soap.step([first])
            soap.step([second])
            assert np.argmax(np.abs(soap.bases[0][0][:, 0])) == leader

    def test_decay_after_the_update_shrinks_the_update_too(self):
        p, g = gaussians(34, 2, 3, 3)
        before = self.soap([p])
        after = self.soap([p], decay_after_update=True)
        for soap in (before, after):
            soap.step([g])
            soap.step([g])
        u = (0.97 * p - before.params[0]) / 0.1
        np.testing.assert_allclose(after.params[0], 0.97 * (p - 0.1 * u), rtol=1e-12)


class TestSophia:
    def sophia_g(self, params: list[Array], **changed: object) -> ReferenceSophiaG:
        settings: dict = dict(lr=0.1, beta1=0.9, beta2=0.99, weight_decay=0.3, gamma=0.05)
        settings |= dict(roles=["matrix"] * len(params), batch_tokens=8.0)
        return ReferenceSophiaG(params, **(settings | changed))

    def sophia_h(self, params: list[Array], **changed: object) -> ReferenceSophiaH:
        settings: dict = dict(lr=0.1, beta1=0.9, beta2=0.99, weight_decay=0.3, gamma=0.05, eps=1e-7)
        return ReferenceSophiaH(params, roles=["matrix"] * len(params), **(settings | changed))

    def test_without_curvature_both_are_sign_momentum(self):
        p, *grads = gaussians(35, 6, 3, 4)
        both = [self.sophia_g([p]), self.sophia_h([p])]
        expected = p
        for t, g in enumerate(grads):
            m = sum(0.9 ** (t - s) * grads[s] for s in range(t + 1))
            expected = 0.97 * expected - 0.1 * np.sign(m)
            for sophia in both:
                sophia.step([g])
        for sophia in both:
            np.testing.assert_allclose(sophia.params[0], expected, rtol=1e-12)

    def test_large_curvature_gives_a_newton_step(self):
        g, curvature = np.array([[0.5, -2.0]]), np.array([[40.0, 90.0]])
        gnb = self.sophia_g([np.zeros((1, 2))], beta1=0.0, beta2=0.0, estimate_first=True, eps=0.0)
        hutchinson = self.sophia_h([np.zeros((1, 2))], beta1=0.5, beta2=0.0, estimate_first=True)
        gnb.step([g], estimate=[np.sqrt(curvature)])
        hutchinson.step([g], estimate=[curvature])
        np.testing.assert_allclose(gnb.params[0], -0.1 * g / (0.05 * 8 * curvature))
        np.testing.assert_allclose(hutchinson.params[0], -0.1 * g / (0.05 * curvature))

    def test_negative_curvature_takes_the_sign(self):
        sophia = self.sophia_h([np.zeros((1, 2))], estimate_first=True)
        sophia.step([np.array([[0.5, -2.0]])], estimate=[np.full((1, 2), -9.0)])
        np.testing.assert_allclose(sophia.params[0], [[-0.1, 0.1]])

    def test_an_estimate_acts_from_the_next_step_unless_it_comes_first(self):
        g, estimate = [np.full((1, 1), 0.01)], [np.full((1, 1), 1e4)]
        for build in (self.sophia_g, self.sophia_h):
            late = build([np.zeros((1, 1))])
            late.step(g, estimate=estimate)
            np.testing.assert_allclose(late.params[0], -0.1)
            moved = late.params[0] * 0.97
            late.step(g)
            assert np.abs(late.params[0] - moved).max() < 1e-3
            early = build([np.zeros((1, 1))], estimate_first=True)
            early.step(g, estimate=estimate)
            assert np.abs(early.params[0]).max() < 1e-3
            np.testing.assert_allclose(early.h[0], late.h[0], rtol=1e-14)

    def test_curvature_is_a_moving_mean_without_correction(self):
        estimates = gaussians(36, 4, 2, 2)
        gnb, hutchinson = self.sophia_g([np.zeros((2, 2))]), self.sophia_h([np.zeros((2, 2))])
        for e in estimates:
            gnb.update_hessian([e])
            hutchinson.update_hessian([e])
        mean = sum(0.01 * 0.99 ** (3 - t) * e for t, e in enumerate(estimates))
        square = sum(0.01 * 0.99 ** (3 - t) * e**2 for t, e in enumerate(estimates))
        np.testing.assert_allclose(hutchinson.h[0], mean, rtol=1e-12)
        np.testing.assert_allclose(gnb.h[0], square, rtol=1e-12)


def test_references_work_on_copies_and_take_the_rate_of_the_step():
    p, g = gaussians(37, 2, 3, 3)
    kept = p.copy(), g.copy()
    common = dict(roles=["matrix"], lr=0.1)
    adam = dict(beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.3)
    references = [
        ReferenceMars([p], **common, **adam, gamma=0.02),
        ReferenceCautious([p], **common, **adam),
        ReferenceAdamMini([p], **common, **adam, blocks=[row_blocks((3, 3))]),
        ReferenceScion([p], **common, momentum=0.9),
        ReferenceSoap([p], **common, **adam, shampoo_beta=0.9, precondition_frequency=1),
        ReferenceSophiaG([p], **common, **adam, gamma=0.05, batch_tokens=1.0),
        ReferenceSophiaH([p], **common, **adam, gamma=0.05),
    ]
    for reference in references:
        for _ in range(2):
            reference.step([g], lr=0.0)
        np.testing.assert_array_equal(reference.params[0], kept[0])
        reference.step([g])
        assert np.abs(reference.params[0] - kept[0]).max() > 1e-3
    kron = ReferenceKron([p], **common, beta1=0.9, weight_decay=0.3, preconditioner_lr=0.1)
    kron.step([g], lr=0.0, noise=[g])
    np.testing.assert_array_equal(kron.params[0], kept[0])
    np.testing.assert_array_equal(p, kept[0])
    np.testing.assert_array_equal(g, kept[1])
