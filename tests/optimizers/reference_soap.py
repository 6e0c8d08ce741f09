"""Float64 transcription of SOAP, one array at a time, with the momentum in the original space.

Source: Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", arXiv 2409.11321,
Algorithms 3 and 4. The authors' code is the default; the form of Wen et al. (arXiv 2509.02046) is
`count_skipped_step=True, gram_first=False, eigh_jitter=eps, adam_roles=()`.

    t = 1:  L = (1 − βs) G Gᵀ,  R = (1 − βs) Gᵀ G;  Q_L, Q_R their eigenvectors, descending; no move
    t ≥ 2:  M ← β1 M + (1 − β1) G;   V ← β2 V + (1 − β2) (Q_Lᵀ G Q_R)²
            U = √(1 − β2^k)/(1 − β1^k) Q_L [(Q_Lᵀ M Q_R)/(√V + ε)] Q_Rᵀ      k = t − 1
            p ← (1 − lr wd) p − lr U
            L ← βs L + (1 − βs) G Gᵀ,  R ← βs R + (1 − βs) Gᵀ G
            k divisible by f: e = diag(QᵀLQ); Q's columns and V's axis in descending order of e;
                              Q ← orthogonal factor of the QR decomposition of L Q

A side longer than `max_precond_dim`, both sides of an array whose role is in `adam_roles`, and the
missing side of a 1-D array are not rotated (Q = I).

Readings taken:
* One counter k serves bias correction and refresh; `count_skipped_step` makes both k = t.
* The skipped step is skipped for every array, also those on Adam, and leaves M and V at zero;
  `adam_skips_first_step=False` gives the unrotated arrays that step and k = t.
* Unrotated arrays go through the same formula, so their ε is added to √V before its correction;
  `adam_eps_outside=True` adds it to √V̂, as torch's AdamW.
* Decay uses the array before the step; the authors shrink it after (`decay_after_update`).
* Equal e keep their order.
* Blocks are not cut: SOAP has no scalar of a whole array, so pass blocks as arrays of their own.

An m × n gradient with m > n leaves L of rank n at first: the rest of the basis, and so V, depends
on the eigensolver. To compare implementations set `bases[i][side]` after the first step.

Comparable (not verified): pytorch-optimizer 4.1.0 `SOAP(precondition_1d=False, merge_dims=False,
correct_bias=True, normalize_gradient=False)`, to its QR's float32; heavyball 3.2.1 is known to
differ in the first step and the basis.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class ReferenceSoap:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        roles: Sequence[str],
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        shampoo_beta: float,
        precondition_frequency: int,
        max_precond_dim: int = 10_000,
        adam_roles: Sequence[str] = ("norm",),
        adam_skips_first_step: bool = True,
        adam_eps_outside: bool = False,
        count_skipped_step: bool = False,
        gram_first: bool = True,
        eigh_jitter: float = 1e-30,
        decay_after_update: bool = False,
        decay_roles: Sequence[str] = ("matrix", "head"),
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.roles, self.decay_roles = list(roles), tuple(decay_roles)
        self.lr, self.beta1, self.beta2, self.eps = lr, beta1, beta2, eps
        self.weight_decay, self.decay_after_update = weight_decay, decay_after_update
        self.shampoo_beta, self.precondition_frequency = shampoo_beta, precondition_frequency
        self.adam_skips_first_step, self.adam_eps_outside = adam_skips_first_step, adam_eps_outside
        self.count_skipped_step, self.gram_first = count_skipped_step, gram_first
        self.eigh_jitter = eigh_jitter
        self.t = 0
        # A 1-D array is a column throughout.
        columns = [p[:, None] if p.ndim == 1 else p for p in self.params]
        self.m = [np.zeros_like(c) for c in columns]
        self.v = [np.zeros_like(c) for c in columns]
        self.grams = [[np.zeros((n, n)) for n in c.shape] for c in columns]
        self.bases = [[np.eye(n) for n in c.shape] for c in columns]
        self.rotated = [
            [role not in adam_roles and 1 < n <= max_precond_dim for n in c.shape]
            for role, c in zip(self.roles, columns, strict=True)
        ]

    def step(self, grads: Sequence[Array], lr: float | None = None) -> None:
        lr = self.lr if lr is None else lr
        self.t += 1
        for i, p in enumerate(self.params):
            g = np.array(grads[i], dtype=np.float64)
            g = g[:, None] if g.ndim == 1 else g
            skips = any(self.rotated[i]) or self.adam_skips_first_step
            if self.t == 1 and skips:
                self._start(i, g)
                continue
            k = self.t - 1 if skips and not self.count_skipped_step else self.t
            u = self._direction(i, g, k).reshape(p.shape)
            decay = self.weight_decay if self.roles[i] in self.decay_roles else 0.0
            if self.decay_after_update:
                self.params[i] = (1 - lr * decay) * (p - lr * u)
            else:
                self.params[i] = (1 - lr * decay) * p - lr * u
            if self.gram_first:
                self._accumulate(i, g)
            if k % self.precondition_frequency == 0:
                self._refresh(i)
            if not self.gram_first:
                self._accumulate(i, g)

    def _start(self, i: int, g: Array) -> None:
        self._accumulate(i, g)
        for side in (0, 1):
            if self.rotated[i][side]:
                gram = self.grams[i][side]
                _, vectors = np.linalg.eigh(gram + self.eigh_jitter * np.eye(len(gram)))
                self.bases[i][side] = vectors[:, ::-1]

    def _accumulate(self, i: int, g: Array) -> None:
        for side, outer in enumerate((g @ g.T, g.T @ g)):
            gram = self.grams[i][side]
            self.grams[i][side] = self.shampoo_beta * gram + (1 - self.shampoo_beta) * outer

    def _direction(self, i: int, g: Array, k: int) -> Array:
        left, right = self.bases[i]
        self.m[i] = self.beta1 * self.m[i] + (1 - self.beta1) * g
        self.v[i] = self.beta2 * self.v[i] + (1 - self.beta2) * (left.T @ g @ right) ** 2
        eps = self.eps
        if self.adam_eps_outside and not any(self.rotated[i]):
            eps = eps * np.sqrt(1 - self.beta2**k)
        rotated_direction = (left.T @ self.m[i] @ right) / (np.sqrt(self.v[i]) + eps)
        correction = np.sqrt(1 - self.beta2**k) / (1 - self.beta1**k)
        return correction * (left @ rotated_direction @ right.T)

    def _refresh(self, i: int) -> None:
        for side in (0, 1):
            if self.rotated[i][side]:
                gram, basis = self.grams[i][side], self.bases[i][side]
                eigenvalues = np.diag(basis.T @ gram @ basis)
                order = np.argsort(-eigenvalues, kind="stable")
                self.v[i] = np.take(self.v[i], order, axis=side)
                self.bases[i][side] = np.linalg.qr(gram @ basis[:, order])[0]
