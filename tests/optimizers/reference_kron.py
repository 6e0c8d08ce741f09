"""Float64 transcription of PSGD Kron (triangular factors, dQ = E Q), one block at a time.

Source: Li, "Preconditioned Stochastic Gradient Descent", arXiv 1512.04202, and "Stochastic Hessian
Fittings with Lie Groups", arXiv 2402.11858 (whitening criterion on Kronecker factors); the update
schedule, the balance and the RMS clip are kron_torch's, which is the default. The form of Wen et
al. (arXiv 2509.02046) is `normalize_grads=True, block_size=256, update_probability=0.05,
flat_start=2000, diagonal_above=25000`.

    g ← g/(‖g‖ + 1e-16) if normalize_grads;   M ← β1 M + (1 − β1) g;   M̂ = M/(1 − β1^t)
    p = clip(exp(−0.001 (n − flat)), p_min, 1);  counter += 1;  counter ≥ 1/p: counter = 0 and
        every 100th of these times Q_i ← Q_i (geometric mean of max|Q_j|)/max|Q_i|
        G = M̂ + √ε₃₂ mean|M̂| V;   A = Q1 G Q2ᵀ;   B = Q1^{−T} V Q2^{−1}
        Q1 ← Q1 − ℓ/‖AAᵀ + BBᵀ‖ triu(AAᵀ − BBᵀ) Q1;   Q2 alike with AᵀA, BᵀB
        (a diagonal factor: diag in place of triu, the largest entry for the norm)
    U = Q1ᵀQ1 M̂ Q2ᵀQ2;   U ← U/max(1, rms(U)/1.1);   p ← (1 − lr wd) p − lr U

V is passed to `step` for each update, of the parameter's shape; a 1-D array is a column with a
diagonal factor on the left and none on the right.

Readings taken:
* n counts steps from 0 (`schedule_origin`); the counter's realised number of updates for flat
  2000, p_min 0.05 and 5120 steps is 2745, while the sum of the probabilities is 2956.
* The 100th, 200th, ... updates are balanced first, counted from 1; `balance` in `step` overrides.
* Blocks: sides with a diagonal factor are not cut, the last block is smaller and not padded, V is
  cut alike. Normalisation, mean|M̂| and RMS are over the whole array, not over a block.
* Each of the factors starts at init_scale I, however many there are.
* Sides are never merged; one longer than `diagonal_above` has a diagonal factor. kron_torch decays
  every array of two or more sides: `decay_roles` must name "embedding" for that.

Comparable (not verified): kron-torch 0.3.3 `Kron(merge_dims=False, memory_save_mode=None)` when its
noise and its random balance are captured and passed in.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

Array = NDArray[np.float64]
SQRT_FLOAT32_EPS = float(np.sqrt(2.0**-23))


def norm_lower_bound(s: Array) -> float:
    """One power step from the longest column: between 0 and the spectral norm of a symmetric s."""
    largest = float(np.abs(s).max())
    if largest == 0.0:
        return 0.0
    s = s / largest
    x = s[:, int(np.argmax(np.sum(s**2, axis=0)))]
    x = x @ s
    x = x / np.sqrt(np.sum(x**2))
    return largest * float(np.sqrt(np.sum((x @ s.T) ** 2)))


class ReferenceKron:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        roles: Sequence[str],
        lr: float,
        beta1: float,
        weight_decay: float,
        preconditioner_lr: float,
        preconditioner_init_scale: float = 1.0,
        update_probability: float = 0.03,  # p_min
        flat_start: int = 500,
        schedule_origin: int = 0,
        normalize_grads: bool = False,
        block_size: int | None = None,
        diagonal_above: int = 8192,
        damping: float = SQRT_FLOAT32_EPS,
        balance_every: int = 100,
        rms_clip: float = 1.1,
        decay_roles: Sequence[str] = ("matrix", "head"),
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.roles, self.decay_roles = list(roles), tuple(decay_roles)
        self.lr, self.beta1, self.weight_decay = lr, beta1, weight_decay
        self.preconditioner_lr, self.normalize_grads = preconditioner_lr, normalize_grads
        self.update_probability, self.flat_start = update_probability, flat_start
        self.schedule_origin, self.balance_every = schedule_origin, balance_every
        self.damping, self.rms_clip = damping, rms_clip
        self.t, self.counter, self.updates = 0, 0, 0
        self.m = [np.zeros_like(p) for p in self.params]
        self.diagonal: list[list[bool]] = []  # of each array, for each side
        self.blocks: list[list[tuple[slice, ...]]] = []  # of each array
        self.factors: list[list[list[Array]]] = []  # of each array, block and side: a square Q
        for p in self.params:
            diagonal = [p.ndim == 1 or side > diagonal_above for side in p.shape]
            spans: list[list[slice]] = []
            for side, is_diagonal in zip(p.shape, diagonal, strict=True):
                width = side if is_diagonal or block_size is None else block_size
                spans.append([slice(a, min(a + width, side)) for a in range(0, side, width)])
            blocks = list(itertools.product(*spans))
            self.diagonal.append(diagonal)
            self.blocks.append(blocks)
            self.factors.append(
                [[preconditioner_init_scale * np.eye(n) for n in p[b].shape] for b in blocks]
            )

    def will_update(self) -> bool:
        """Whether the next step renews the factors, and so needs noise."""
        p = np.exp(-0.001 * (self.t + self.schedule_origin - self.flat_start))
        return self.counter + 1 >= 1 / min(max(p, self.update_probability), 1.0)

    def step(
        self,
        grads: Sequence[Array],
        lr: float | None = None,
        noise: Sequence[Array] | None = None,  # V; not read unless will_update()
        balance: bool | None = None,  # None: by the count of updates
    ) -> None:
        lr = self.lr if lr is None else lr
        updating = self.will_update()
        self.t += 1
        self.counter = 0 if updating else self.counter + 1
        self.updates += int(updating)
        if balance is None:
            balance = self.updates % self.balance_every == 0
        for i, p in enumerate(self.params):
            g = np.array(grads[i], dtype=np.float64)
            if self.normalize_grads:
                g = g / (np.sqrt(np.sum(g**2)) + 1e-16)
            self.m[i] = self.beta1 * self.m[i] + (1 - self.beta1) * g
            m_hat = self.m[i] / (1 - self.beta1**self.t)
            if updating:
                assert noise is not None
                self._update_factors(i, m_hat, np.array(noise[i], dtype=np.float64), balance)
            u = self.precondition(i, m_hat)
            u = u / max(1.0, float(np.sqrt(np.mean(u**2))) / self.rms_clip)
            decay = self.weight_decay if self.roles[i] in self.decay_roles else 0.0
            self.params[i] = (1 - lr * decay) * p - lr * u

    def precondition(self, i: int, m: Array) -> Array:
        u = np.zeros_like(m)
        for block, qs in zip(self.blocks[i], self.factors[i], strict=True):
            x = qs[0].T @ qs[0] @ m[block]
            u[block] = x if m.ndim == 1 else x @ qs[1].T @ qs[1]
        return u

    def _update_factors(self, i: int, m_hat: Array, noise: Array, balance: bool) -> None:
        damped = m_hat + self.damping * np.mean(np.abs(m_hat)) * noise
        for block, qs in zip(self.blocks[i], self.factors[i], strict=True):
            if balance:
                maxima = [float(np.abs(q).max()) for q in qs]
                geometric_mean = float(np.prod(maxima)) ** (1 / len(maxima))
                for side, largest in enumerate(maxima):
                    qs[side] = qs[side] * geometric_mean / largest
            g, v = damped[block], noise[block]
            if g.ndim == 1:
                g, v = g[:, None], v[:, None]
            q1, q2 = qs[0], qs[1] if len(qs) == 2 else np.eye(1)
            a = q1 @ g @ q2.T
            b = solve_triangular(q1, v, trans="T", lower=False)
            b = solve_triangular(q2, b.T, trans="T", lower=False).T
            qs[0] = self._moved(q1, a @ a.T, b @ b.T, self.diagonal[i][0])
            if len(qs) == 2:
                qs[1] = self._moved(q2, a.T @ a, b.T @ b, self.diagonal[i][1])

    def _moved(self, q: Array, aa: Array, bb: Array, diagonal: bool) -> Array:
        if diagonal:
            norm = float(np.max(np.diag(aa + bb)))
            return q - self.preconditioner_lr / norm * np.diag(np.diag(aa - bb)) @ q
        return q - self.preconditioner_lr / norm_lower_bound(aa + bb) * np.triu(aa - bb) @ q
