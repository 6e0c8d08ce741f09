"""Float64 transcription of Adam-mini, one array and one block of it at a time.

Source: Zhang et al., "Adam-mini: Use Fewer Learning Rates To Gain More", arXiv 2406.16793,
Algorithm 1, with the blocks given as data: `blocks[i]` has the shape of `params[i]` and holds the
number of the block of every element.

    m   = β1 m + (1 − β1) g
    v_b = β2 v_b + (1 − β2) mean_{block b}(g²)
    u   = (m/(1 − β1^t)) / (√(v_b/(1 − β2^t)) + ε);   p ← (1 − lr wd) p − lr u

The authors' partition: a row of embedding and head, a head of query and key, an output neuron of
value, output, gate, up and down, one number for a whole norm gain (`norm_blocks="scalar"`, the
default). The form of Wen et al. (arXiv 2509.02046) has a number for each element of a gain
(`norm_blocks="element"`) and clips the gains' gradients alone, together (`norm_clip`).

Readings taken:
* `blocks[i]` None is allowed for a gain only, and means what `norm_blocks` says.
* With grouped queries a query block is the group of query heads that share a key head: these
  heads are neighbouring rows, so the blocks are `head_blocks(shape, number of key heads)`.
* The authors decay embeddings; here `decay_roles` must name them for that.

Comparable (not verified): adam-mini 1.1.1 `Adam_mini` with Llama's parameter names, norms as one
scalar and `decay_roles=("matrix", "head", "embedding")`; pytorch-optimizer's differs from it.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Blocks = NDArray[np.int64]


def element_blocks(shape: tuple[int, ...]) -> Blocks:
    return np.arange(np.prod(shape), dtype=np.int64).reshape(shape)


def tensor_block(shape: tuple[int, ...]) -> Blocks:
    return np.zeros(shape, dtype=np.int64)


def row_blocks(shape: tuple[int, int]) -> Blocks:
    blocks = np.zeros(shape, dtype=np.int64)
    for row in range(shape[0]):
        blocks[row, :] = row
    return blocks


def head_blocks(shape: tuple[int, int], heads: int) -> Blocks:
    """Blocks of shape[0] / heads neighbouring rows."""
    assert shape[0] % heads == 0
    blocks = np.zeros(shape, dtype=np.int64)
    for row in range(shape[0]):
        blocks[row, :] = row // (shape[0] // heads)
    return blocks


class ReferenceAdamMini:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        roles: Sequence[str],
        blocks: Sequence[Blocks | None],
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        norm_blocks: Literal["scalar", "element"] = "scalar",
        norm_clip: float = 0.0,  # 0 leaves the gains' gradients as they are
        decay_roles: Sequence[str] = ("matrix", "head"),
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.roles = list(roles)
        self.lr, self.beta1, self.beta2, self.eps = lr, beta1, beta2, eps
        self.weight_decay, self.decay_roles = weight_decay, tuple(decay_roles)
        self.norm_clip = norm_clip
        self.blocks: list[Blocks] = []
        for p, role, given in zip(self.params, self.roles, blocks, strict=True):
            assert given is not None or role == "norm"
            default = tensor_block if norm_blocks == "scalar" else element_blocks
            self.blocks.append(default(p.shape) if given is None else given)
        self.t = 0
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros(int(b.max()) + 1) for b in self.blocks]

    def step(self, grads: Sequence[Array], lr: float | None = None) -> None:
        lr = self.lr if lr is None else lr
        self.t += 1
        for i, g in enumerate(self._clipped(grads)):
            self.m[i] = self.beta1 * self.m[i] + (1 - self.beta1) * g
            u = np.zeros_like(g)
            for b in range(len(self.v[i])):
                inside = self.blocks[i] == b
                mean_square = float(np.mean(g[inside] ** 2))
                self.v[i][b] = self.beta2 * self.v[i][b] + (1 - self.beta2) * mean_square
                v_hat = self.v[i][b] / (1 - self.beta2**self.t)
                m_hat = self.m[i][inside] / (1 - self.beta1**self.t)
                u[inside] = m_hat / (np.sqrt(v_hat) + self.eps)
            decay = self.weight_decay if self.roles[i] in self.decay_roles else 0.0
            self.params[i] = (1 - lr * decay) * self.params[i] - lr * u

    def _clipped(self, grads: Sequence[Array]) -> list[Array]:
        clipped = [np.array(g, dtype=np.float64) for g in grads]
        gains = [i for i, role in enumerate(self.roles) if role == "norm"]
        norm = float(np.sqrt(sum(np.sum(clipped[i] ** 2) for i in gains)))
        if self.norm_clip > 0 and norm > self.norm_clip:
            for i in gains:
                clipped[i] = clipped[i] * (self.norm_clip / norm)
        return clipped
