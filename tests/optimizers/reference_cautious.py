"""Float64 transcription of Cautious AdamW, one array at a time.

Source: Liang et al., "Cautious Optimizers: Improving Training with One Line of Code",
arXiv 2411.16085. The authors' code (mask mean of one tensor, at least 1e-3) is the default; the
form of Wen et al. (arXiv 2509.02046) is `scaling="mean_plus_eps"` and, where layers are stacked
in one leaf, `batched_norms`.

    u  = (m/(1 − β1^t)) / (√(v/(1 − β2^t)) + ε)
    μ  = 1[u g > 0]
    u  = u μ / max(mean μ, 1e-3)          or   u μ / (mean μ + ε)
    p  ← (1 − lr wd) p − lr u             the decay is not masked

Readings taken:
* ε is added to √v̂, after bias correction (torch's AdamW); the authors' slow path adds it to √v.
* A coordinate with u g = 0 does not agree: the inequality is strict. Signs are
  multiplied, so that a product of tiny numbers does not underflow.
* The mean is over every element of the tensor, also those with no gradient.

Comparable (not verified): heavyball 3.2.1 AdamW with `caution=True`, whose mask is known to be
scaled differently; pytorch-optimizer 4.1.0 `MARS(gamma=0, cautious=True)`.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class ReferenceCautious:
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
        scaling: Literal["clamp", "mean_plus_eps"] = "clamp",
        mask_floor: float = 1e-3,
        stacks: Sequence[Sequence[int]] | None = None,  # indices of arrays that share one mean
        decay_roles: Sequence[str] = ("matrix", "head"),
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.roles = list(roles)
        self.lr, self.beta1, self.beta2, self.eps = lr, beta1, beta2, eps
        self.weight_decay, self.decay_roles = weight_decay, tuple(decay_roles)
        self.scaling, self.mask_floor = scaling, mask_floor
        self.stacks = [[i] for i in range(len(self.params))] if stacks is None else stacks
        self.t = 0
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array], lr: float | None = None) -> None:
        lr = self.lr if lr is None else lr
        self.t += 1
        updates: list[Array] = []
        masks: list[Array] = []
        for i, gradient in enumerate(grads):
            g = np.array(gradient, dtype=np.float64)
            self.m[i] = self.beta1 * self.m[i] + (1 - self.beta1) * g
            self.v[i] = self.beta2 * self.v[i] + (1 - self.beta2) * g**2
            m_hat = self.m[i] / (1 - self.beta1**self.t)
            v_hat = self.v[i] / (1 - self.beta2**self.t)
            updates.append(m_hat / (np.sqrt(v_hat) + self.eps))
            masks.append((np.sign(updates[i]) * np.sign(g) > 0).astype(np.float64))
        for stack in self.stacks:
            agreeing = sum(float(masks[i].sum()) for i in stack)
            mean = agreeing / sum(masks[i].size for i in stack)
            scale = max(mean, self.mask_floor) if self.scaling == "clamp" else mean + self.eps
            for i in stack:
                u = updates[i] * masks[i] / scale
                decay = self.weight_decay if self.roles[i] in self.decay_roles else 0.0
                self.params[i] = (1 - lr * decay) * self.params[i] - lr * u
