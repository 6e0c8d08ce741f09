"""Float64 NumPy transcriptions of each method, from its paper or specification alone.

Each is a trajectory of one parameter: start and gradients of every step in, end out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def adamw(
    w: Array,
    gradients: Sequence[Array],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> Array:
    """Decoupled Weight Decay Regularization, Algorithm 2, decay multiplied by lr."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        w = w - lr * (m_hat / (np.sqrt(v_hat) + eps) + weight_decay * w)
    return w


def nadamw(
    w: Array,
    gradients: Sequence[Array],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> Array:
    """Incorporating Nesterov Momentum into Adam, Algorithm 2 with constant β₁, decoupled decay."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_bar = beta1 * m / (1 - beta1 ** (t + 1)) + (1 - beta1) * g / (1 - beta1**t)
        w = w - lr * (m_bar / (np.sqrt(v / (1 - beta2**t)) + eps) + weight_decay * w)
    return w


def lion(
    w: Array,
    gradients: Sequence[Array],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
) -> Array:
    """Symbolic Discovery of Optimization Algorithms, Algorithm 2."""
    m = np.zeros_like(w)
    for g in gradients:
        c = beta1 * m + (1 - beta1) * g
        w = w - lr * (np.sign(c) + weight_decay * w)
        m = beta2 * m + (1 - beta2) * g
    return w


def newton_schulz(g: Array, steps: int) -> Array:
    """The quintic iteration of the Muon post, on singular values: they alone change."""
    u, s, vt = np.linalg.svd(g, full_matrices=False)
    s = s / np.sqrt(np.sum(s**2))
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ vt


def muon(
    w: Array,
    gradients: Sequence[Array],
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    ns_steps: int,
    weight_decay: float,
) -> Array:
    """The Muon post, momentum as an average, update scaled by √max(1, rows/columns)."""
    m = np.zeros_like(w)
    scale = np.sqrt(max(1.0, w.shape[0] / w.shape[1]))
    for g in gradients:
        m = momentum * m + (1 - momentum) * g
        u = momentum * m + (1 - momentum) * g if nesterov else m
        w = w - lr * (scale * newton_schulz(u, ns_steps) + weight_decay * w)
    return w
