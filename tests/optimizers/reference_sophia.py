"""Float64 transcription of Sophia-G and Sophia-H, one array at a time.

Source: Liu et al., "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model
Pre-training", arXiv 2305.14342: Algorithm 3 (Sophia), Algorithms 1 (Hutchinson) and 2
(Gauss–Newton–Bartlett). Sophia-G follows the authors' code, Sophia-H the form of Wen et al.
(arXiv 2509.02046).

    G:  m ← β1 m + (1 − β1) g;   u = sign(m) min(|m|/(γ B h + ε), 1)         no bias correction
        h ← β2 h + (1 − β2) ĝ²           ĝ: gradient of the mean loss on labels the model sampled
    H:  m likewise;              u = clamp((m/(1 − β1^t))/max(γ h, ε), −1, 1)
        h ← β2 h + (1 − β2) z ⊙ Hz
    both:  p ← (1 − lr wd) p − lr u

Readings taken:
* γ is the authors' ρ, B the tokens of a batch (`batch_tokens`), ε = 1e-15 is added in G and a
  lower bound in H.
* `step(..., estimate=x)` renews h after the update, so x acts from the next step on (the authors'
  code, and Wen et al.). `estimate_first=True` renews it before, as Algorithm 3 writes it, where
  the estimates fall on steps 1, k+1, 2k+1, ... The caller chooses the steps and the point where
  the estimate is taken: `update_hessian` may also be called between two steps.
* h starts at 0 and is never bias corrected or clamped; sign(0) = 0.

Comparable (not verified): sophia-opt 0.2.2 `SophiaG(rho=γ)`, `step(bs=B)`, `update_hessian()`;
pytorch-optimizer 4.1.0 `SophiaH` takes its Hessian on its own terms.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class ReferenceSophiaG:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        roles: Sequence[str],
        lr: float,
        beta1: float,
        beta2: float,
        gamma: float,
        batch_tokens: float,
        weight_decay: float,
        eps: float = 1e-15,
        estimate_first: bool = False,
        decay_roles: Sequence[str] = ("matrix", "head"),
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.roles = list(roles)
        self.lr, self.beta1, self.beta2, self.eps = lr, beta1, beta2, eps
        self.gamma, self.batch_tokens, self.weight_decay = gamma, batch_tokens, weight_decay
        self.estimate_first, self.decay_roles = estimate_first, tuple(decay_roles)
        self.m = [np.zeros_like(p) for p in self.params]
        self.h = [np.zeros_like(p) for p in self.params]

    def step(
        self,
        grads: Sequence[Array],
        lr: float | None = None,
        estimate: Sequence[Array] | None = None,  # gradients on sampled labels
    ) -> None:
        lr = self.lr if lr is None else lr
        if estimate is not None and self.estimate_first:
            self.update_hessian(estimate)
        for i, p in enumerate(self.params):
            g = np.array(grads[i], dtype=np.float64)
            self.m[i] = self.beta1 * self.m[i] + (1 - self.beta1) * g
            ratio = np.abs(self.m[i]) / (self.gamma * self.batch_tokens * self.h[i] + self.eps)
            u = np.sign(self.m[i]) * np.minimum(ratio, 1.0)
            decay = self.weight_decay if self.roles[i] in self.decay_roles else 0.0
            self.params[i] = (1 - lr * decay) * p - lr * u
        if estimate is not None and not self.estimate_first:
            self.update_hessian(estimate)

    def update_hessian(self, sampled_label_grads: Sequence[Array]) -> None:
        for i, g in enumerate(sampled_label_grads):
            square = np.array(g, dtype=np.float64) ** 2
            self.h[i] = self.beta2 * self.h[i] + (1 - self.beta2) * square


class ReferenceSophiaH:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        roles: Sequence[str],
        lr: float,
        beta1: float,
        beta2: float,
        gamma: float,
        eps: float,
        weight_decay: float,
        estimate_first: bool = False,
        decay_roles: Sequence[str] = ("matrix", "head"),
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.roles = list(roles)
        self.lr, self.beta1, self.beta2, self.eps = lr, beta1, beta2, eps
        self.gamma, self.weight_decay = gamma, weight_decay
        self.estimate_first, self.decay_roles = estimate_first, tuple(decay_roles)
        self.t = 0
        self.m = [np.zeros_like(p) for p in self.params]
        self.h = [np.zeros_like(p) for p in self.params]

    def step(
        self,
        grads: Sequence[Array],
        lr: float | None = None,
        estimate: Sequence[Array] | None = None,  # z ⊙ Hz
    ) -> None:
        lr = self.lr if lr is None else lr
        self.t += 1
        if estimate is not None and self.estimate_first:
            self.update_hessian(estimate)
        for i, p in enumerate(self.params):
            g = np.array(grads[i], dtype=np.float64)
            self.m[i] = self.beta1 * self.m[i] + (1 - self.beta1) * g
            m_hat = self.m[i] / (1 - self.beta1**self.t)
            u = np.clip(m_hat / np.maximum(self.gamma * self.h[i], self.eps), -1.0, 1.0)
            decay = self.weight_decay if self.roles[i] in self.decay_roles else 0.0
            self.params[i] = (1 - lr * decay) * p - lr * u
        if estimate is not None and not self.estimate_first:
            self.update_hessian(estimate)

    def update_hessian(self, z_times_hz: Sequence[Array]) -> None:
        for i, d in enumerate(z_times_hz):
            diagonal = np.array(d, dtype=np.float64)
            self.h[i] = self.beta2 * self.h[i] + (1 - self.beta2) * diagonal
