"""Matrix functions on stacks of matrices, along their leading axes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

# Quintic of Jordan et al. (2024): the steepest slope at 0 for which five steps keep the singular
# values in about [0.7, 1.2]. It does not converge to 1, and is not meant to.
NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def newton_schulz(
    matrices: Tensor,
    *,
    steps: int = 5,
    eps: float = 1e-7,
    compute_dtype: torch.dtype | None = None,
) -> Tensor:
    """Nearly orthogonalize each matrix of a stack: U·Σ·Vᵀ ↦ U·p(Σ)·Vᵀ with p(Σ) around 1.

    Each step is X ← a·X + (b·A + c·A²)·X with A = X·Xᵀ, after X = G / max(‖G‖_F, eps); for a tall
    matrix X ← a·X + X·(b·A + c·A²) with A = Xᵀ·X, the same function, so that A has the smaller side
    and nothing is transposed in memory. Four buffers hold all intermediate results.

    With ‖G‖_F + eps in place of the floor, as Muon's and Scion's authors have it, a result differs
    by at most c·ln(1 + eps/‖G‖_F) in the spectral norm, for ‖G‖_F ≥ eps, where c is the largest
    |σ·p′(σ)| on [0, 1]: 8.7 for 5 steps and 86 for 10. The floor leaves the scale of G without any
    effect.

    Args:
        matrices: (…, m, n).
        steps: number of iterations.
        eps: least divisor; a zero matrix stays zero.
        compute_dtype: dtype of the iteration; None keeps that of ``matrices``.

    Returns:
        (…, m, n) in the dtype of ``matrices``.

    Raises:
        ValueError: ``matrices`` has fewer than two dimensions.
    """
    if matrices.ndim < 2:
        raise ValueError(f"Matrices are needed, but got a tensor of shape {tuple(matrices.shape)}.")
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    rows, columns = matrices.shape[-2:]
    stack = matrices.reshape(-1, rows, columns)
    # The norm is taken before the cast: in bfloat16 it would be off by up to 0.4 %.
    x = stack / stack.flatten(1).norm(dim=1).clamp(min=eps)[:, None, None]
    x = x.to(compute_dtype or x.dtype)
    # A stack of one goes the way of plain matrices, for which torch has the faster products.
    x = x[0] if len(x) == 1 else x
    addmm = torch.addmm if x.ndim == 2 else torch.baddbmm
    spare = torch.empty_like(x)
    side = min(rows, columns)
    gram, polynomial = x.new_empty((2, *x.shape[:-2], side, side)).unbind()
    for _ in range(steps):
        torch.matmul(*((x.mT, x) if rows > columns else (x, x.mT)), out=gram)
        addmm(gram, gram, gram, beta=b, alpha=c, out=polynomial)
        addmm(x, *((x, polynomial) if rows > columns else (polynomial, x)), beta=a, out=spare)
        x, spare = spare, x
    return x.to(matrices.dtype).reshape(matrices.shape)


# A hyperparameter chooses the dtype of the iteration; "auto" is decided by the device.
NS_DTYPES = ("auto", "bfloat16", "state")


def newton_schulz_dtype(choice: str, like: Tensor) -> torch.dtype:
    """The dtype that a choice of :data:`NS_DTYPES` stands for.

    "bfloat16" is what the authors use everywhere, "state" that of the optimizer's state, and "auto"
    is the first on CUDA and the second elsewhere: a CPU without bfloat16 matrix units would lose
    both time and accuracy.
    """
    fast = choice == "bfloat16" or (choice == "auto" and like.is_cuda)
    return torch.bfloat16 if fast else like.dtype


def eigenbasis(matrices: Tensor) -> Tensor:
    """Eigenvectors of symmetric matrices as columns, largest eigenvalue first.

    Where the solver fails on a matrix of the stack, each is solved by itself in float64 on the
    CPU. A matrix that is not finite gets a basis of NaN.

    Args:
        matrices: (N, n, n).

    Returns:
        (N, n, n).

    Raises:
        torch.linalg.LinAlgError: float64 fails as well.
    """
    try:
        return torch.linalg.eigh(matrices).eigenvectors.flip(-1)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        return torch.stack([_exact_eigenbasis(matrix) for matrix in matrices])


def _exact_eigenbasis(matrix: Tensor) -> Tensor:
    if not bool(matrix.isfinite().all()):
        return torch.full_like(matrix, torch.nan)
    vectors = torch.linalg.eigh(matrix.to("cpu", torch.float64)).eigenvectors
    return vectors.flip(-1).to(matrix)


def spectral_norm_lower_bound(matrices: Tensor) -> Tensor:
    """A lower bound of the largest eigenvalue, tight to about √2: one power step from a column.

    Args:
        matrices: (N, n, n), symmetric and positive semidefinite; overwritten.

    Returns:
        (N,); 0 for a zero matrix.
    """
    tiny = torch.finfo(matrices.dtype).tiny
    # No element of a positive semidefinite matrix exceeds the largest of its diagonal.
    largest = matrices.diagonal(dim1=-2, dim2=-1).amax(-1).clamp(min=tiny)
    scaled = matrices.div_(largest[:, None, None])
    longest = torch.linalg.vector_norm(scaled, dim=-1).argmax(-1)
    vector = scaled[torch.arange(len(scaled), device=scaled.device), longest].unsqueeze(-1)
    vector = scaled @ vector
    image = scaled @ vector
    ratio = torch.linalg.vector_norm(image, dim=(1, 2)) / (
        torch.linalg.vector_norm(vector, dim=(1, 2)).clamp(min=tiny)
    )
    return largest * ratio


@contextmanager
def full_float32() -> Generator[None]:
    """Keep TensorFloat-32 and bfloat16 out of float32 products, whatever the process allows.

    A basis that is rotated by products of three digits is no longer orthogonal.
    """
    cpu = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    backends = (torch.backends.cuda.matmul, cpu)
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
