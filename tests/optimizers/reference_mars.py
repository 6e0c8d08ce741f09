"""Float64 transcription of MARS-AdamW, approximate variant, one array at a time.

Source: Yuan et al., "MARS: Unleashing the Power of Variance Reduction for Training Large Models",
arXiv 2411.10438, Algorithms 1 and 2 (MARS-AdamW) with the previous gradient in place of the
previous point's gradient on the new batch; the authors' per-tensor clip is the default, the form
of Wen et al. (arXiv 2509.02046) is `clip_scope="global", clip_eps=1e-6, one_dimensional="mars"`.

    c_t = g_t + γ β1/(1 − β1) (g_t − g_{t−1})         g_0 = 0
    c_t = c_t min(1, C/(‖c_t‖ + clip_eps))            ‖·‖ of one tensor, or of all of them
    m_t, v_t, u_t as in AdamW on c_t;  p ← (1 − lr wd) p − lr u_t

Readings taken:
* The clip of a tensor has no epsilon (the paper divides by the norm); `clip_eps` adds one.
* With a global clip and AdamW for 1-D arrays, the norm is over the arrays MARS treats.
* g_0 = 0 also in the default form, so the first c is g_1 (1 + γβ1/(1 − β1)) before its clip.
* The learning rate of 1-D arrays follows the schedule: it is `lr_1d_ratio * lr`. The authors decay
  1-D arrays by 0.1; `weight_decay_1d` is 0 unless given, as the benchmark does not decay gains.
* Gradients are stored as passed in: clip them first to store clipped ones, as the authors' script.

Comparable (not verified): pytorch-optimizer 4.1.0 `MARS(mars_type="adamw", optimize_1d=False,
weight_decouple=True)`; it and heavyball 3.2.1 `mars=True` are known to disagree with each other.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class ReferenceMars:
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
        gamma: float,
        max_grad_norm: float = 1.0,  # C; 0 leaves c as it is
        clip_scope: Literal["tensor", "global"] = "tensor",
        clip_eps: float = 0.0,
        one_dimensional: Literal["adamw", "mars"] = "adamw",
        lr_1d_ratio: float = 1.0,
        beta1_1d: float = 0.9,
        beta2_1d: float = 0.95,
        weight_decay_1d: float = 0.0,
        decay_roles: Sequence[str] = ("matrix", "head"),
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.roles = list(roles)
        self.lr, self.eps = lr, eps
        self.beta1, self.beta2, self.weight_decay = beta1, beta2, weight_decay
        self.beta1_1d, self.beta2_1d, self.weight_decay_1d = beta1_1d, beta2_1d, weight_decay_1d
        self.lr_1d_ratio = lr_1d_ratio
        self.gamma, self.max_grad_norm = gamma, max_grad_norm
        self.clip_scope, self.clip_eps = clip_scope, clip_eps
        self.one_dimensional, self.decay_roles = one_dimensional, tuple(decay_roles)
        self.t = 0
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]
        self.previous = [np.zeros_like(p) for p in self.params]
        self.corrected: list[Array] = []

    def step(self, grads: Sequence[Array], lr: float | None = None) -> None:
        lr = self.lr if lr is None else lr
        self.t += 1
        self.corrected = self._corrected([np.array(g, dtype=np.float64) for g in grads])
        for i, p in enumerate(self.params):
            if self._is_mars(i):
                beta1, beta2, rate = self.beta1, self.beta2, lr
                decay = self.weight_decay if self.roles[i] in self.decay_roles else 0.0
            else:
                beta1, beta2, rate = self.beta1_1d, self.beta2_1d, lr * self.lr_1d_ratio
                decay = self.weight_decay_1d
            c = self.corrected[i]
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * c
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * c**2
            m_hat = self.m[i] / (1 - beta1**self.t)
            v_hat = self.v[i] / (1 - beta2**self.t)
            u = m_hat / (np.sqrt(v_hat) + self.eps)
            self.params[i] = (1 - rate * decay) * p - rate * u

    def _is_mars(self, i: int) -> bool:
        return self.params[i].ndim >= 2 or self.one_dimensional == "mars"

    def _corrected(self, grads: list[Array]) -> list[Array]:
        factor = self.gamma * self.beta1 / (1 - self.beta1)
        corrected = list(grads)
        treated = [i for i in range(len(grads)) if self._is_mars(i)]
        for i in treated:
            corrected[i] = grads[i] + factor * (grads[i] - self.previous[i])
        if self.max_grad_norm > 0:
            total = float(np.sqrt(sum(np.sum(corrected[i] ** 2) for i in treated)))
            for i in treated:
                own = float(np.sqrt(np.sum(corrected[i] ** 2)))
                norm = (own if self.clip_scope == "tensor" else total) + self.clip_eps
                if norm > self.max_grad_norm:
                    corrected[i] = corrected[i] * (self.max_grad_norm / norm)
        self.previous = [g.copy() for g in grads]
        return corrected
