"""What optimizers keep for each parameter of the hidden matrices, at the proportions of the study.

Counted for Llama's matrices, d×d and d×4d, at a width from which on what grows with the matrix's
side alone (Adam-mini's rows) is below a thousandth. Embedding, head and norm weights come on top:
their state is that of the method's own rule for them, 8 bytes a parameter with AdamW's.
"""

from __future__ import annotations

from optbench.config import Role
from optbench.optimizers import OPTIMIZERS
from optbench.space import Configuration

_WIDTH = 2048  # no side is longer than the optimizers' limits for factors, 8192
_MATRICES = (  # of a layer, with their number
    ((_WIDTH, _WIDTH), 4),
    ((4 * _WIDTH, _WIDTH), 2),
    ((_WIDTH, 4 * _WIDTH), 1),
)


def state_bytes_per_param(optimizer: str, configuration: Configuration) -> float | None:
    """Bytes of state per parameter of the hidden matrices; None for an optimizer not known here.

    Args:
        optimizer: its name.
        configuration: hyperparameters, the others at their defaults; what is no hyperparameter is
            not read.
    """
    if optimizer not in OPTIMIZERS:
        return None
    method = OPTIMIZERS[optimizer]
    group = {**method.default_hyperparameters(), **configuration, "role": Role.MATRIX}
    kept = sum(count * method.state_bytes(shape, group) for shape, count in _MATRICES)
    return kept / sum(count * rows * columns for (rows, columns), count in _MATRICES)
