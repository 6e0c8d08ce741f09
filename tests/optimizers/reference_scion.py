"""Float64 transcription of Scion, one array at a time.

Source: Pethick et al., "Training Deep Learning Models with Norm-Constrained LMOs",
arXiv 2502.07529, Algorithms 1 (unconstrained) and 2 (constrained) and the table of norms for
language models; Newton–Schulz coefficients of Jordan's Muon. The authors' constrained form is
the default; `form="paper"` is the one of Wen et al. (arXiv 2509.02046), with ten iterations.

    M ← μ M + (1 − μ) g                                             μ = momentum = 1 − α
    constrained:    W ← (1 − lr) W − lr ρ d(M)
    unconstrained:  W ← W − lr ρ d(M)
    d: hidden matrix (m × n)  √(m/n) NS(M)        head (classes × d)  sign(M)/d
       embedding  sign(M), or each token's vector scaled to RMS 1 ("token_rms", the paper's ColNorm)
       norm gain  sign(M), or M scaled to RMS 1 ("rms", the paper's BiasRMS)
    form "paper": hidden  W ← W − lr (√max(1, m/n) NS(M) + wd W)
                  others  g clipped together to max_grad_norm; s ← β1 s + (1 − β1) g;
                          W ← W − signum_lr_ratio lr (sign(s) + wd mask W)

Readings taken:
* d is minus the linear minimisation oracle of the unit ball; radii multiply it.
* The constrained and the unconstrained form have no decay of their own, and no Nesterov step.
* Newton–Schulz: X = M/(‖M‖_F + eps), transposed when m > n, in float64 (authors: bf16, 1e-7).
* The authors' models have no gains; "sign" is the default here, with radius `radius_norm`.
* A zero vector stays zero under "rms" and "token_rms" (`rms_eps` is added to the RMS).

Comparable (not verified): pytorch-optimizer 4.1.0 `SCION(constrain=True, momentum=α, scale=ρ,
norm_type=...)`, within bf16's error; heavyball's Scion has other scales.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def newton_schulz(matrix: Array, steps: int, eps: float) -> Array:
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (np.sqrt(np.sum(matrix**2)) + eps)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class ReferenceScion:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        roles: Sequence[str],
        lr: float,
        momentum: float,
        form: Literal["constrained", "unconstrained", "paper"] = "constrained",
        radius_matrix: float = 50.0,
        radius_embedding: float = 3000.0,
        radius_head: float = 3000.0,
        radius_norm: float = 1.0,
        embedding_lmo: Literal["sign", "token_rms"] = "sign",
        norm_lmo: Literal["sign", "rms"] = "sign",
        ns_steps: int = 5,
        eps: float = 1e-7,
        rms_eps: float = 1e-8,
        beta1: float = 0.95,  # from here on: form "paper" alone
        weight_decay: float = 0.0,
        signum_lr_ratio: float = 1.0,
        max_grad_norm: float = 0.0,
        decay_roles: Sequence[str] = ("matrix", "head"),
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.roles = list(roles)
        self.lr, self.momentum, self.form = lr, momentum, form
        self.radius = {
            "matrix": radius_matrix,
            "embedding": radius_embedding,
            "head": radius_head,
            "norm": radius_norm,
        }
        self.embedding_lmo, self.norm_lmo = embedding_lmo, norm_lmo
        self.ns_steps, self.eps, self.rms_eps = ns_steps, eps, rms_eps
        self.beta1, self.weight_decay, self.decay_roles = beta1, weight_decay, tuple(decay_roles)
        self.signum_lr_ratio, self.max_grad_norm = signum_lr_ratio, max_grad_norm
        self.m = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array], lr: float | None = None) -> None:
        lr = self.lr if lr is None else lr
        arrays = [np.array(g, dtype=np.float64) for g in grads]
        if self.form == "paper":
            self._paper_step(arrays, lr)
            return
        for i, w in enumerate(self.params):
            self.m[i] = self.momentum * self.m[i] + (1 - self.momentum) * arrays[i]
            moved = lr * self.radius[self.roles[i]] * self.direction(self.roles[i], self.m[i])
            shrink = 1 - lr if self.form == "constrained" else 1.0
            self.params[i] = shrink * w - moved

    def direction(self, role: str, m: Array) -> Array:
        if role == "matrix":
            return np.sqrt(m.shape[0] / m.shape[1]) * newton_schulz(m, self.ns_steps, self.eps)
        if role == "head":
            return np.sign(m) / m.shape[1]
        if role == "embedding" and self.embedding_lmo == "token_rms":
            return m / (np.sqrt(np.mean(m**2, axis=1, keepdims=True)) + self.rms_eps)
        if role == "norm" and self.norm_lmo == "rms":
            return m / (np.sqrt(np.mean(m**2)) + self.rms_eps)
        return np.sign(m)

    def _paper_step(self, grads: list[Array], lr: float) -> None:
        rest = [i for i, role in enumerate(self.roles) if role != "matrix"]
        norm = float(np.sqrt(sum(np.sum(grads[i] ** 2) for i in rest)))
        clip = self.max_grad_norm / norm if 0 < self.max_grad_norm < norm else 1.0
        for i, w in enumerate(self.params):
            decay = self.weight_decay if self.roles[i] in self.decay_roles else 0.0
            if i in rest:
                self.m[i] = self.beta1 * self.m[i] + (1 - self.beta1) * clip * grads[i]
                rate, u = self.signum_lr_ratio * lr, np.sign(self.m[i])
            else:
                self.m[i] = self.momentum * self.m[i] + (1 - self.momentum) * grads[i]
                factor = np.sqrt(max(1.0, w.shape[0] / w.shape[1]))
                rate, u = lr, factor * newton_schulz(self.m[i], self.ns_steps, self.eps)
            self.params[i] = (1 - rate * decay) * w - rate * u
