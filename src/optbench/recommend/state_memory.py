"""What optimizers keep for each parameter of the hidden matrices, at the proportions of the study.

Counted for Llama's matrices, d×d and d×4d, in 32-bit numbers; what grows with the matrix's side
alone (Adam-mini's rows) is left out. Embedding, head and gains come on top: their state is that of
the method's own rule for them, 8 bytes a parameter with AdamW's.
"""

from __future__ import annotations

from optbench.space import Configuration

_BYTES = 4
_NUMBERS = {
    "adamw": 2.0,
    "nadamw": 2.0,
    "cautious": 2.0,
    "mars": 3.0,  # the last gradient as well
    "lion": 1.0,
    "adam_mini": 1.0,
    "muon": 1.0,
    "scion": 1.0,
    "sophia": 2.0,
    "kron": 1.0,
    "soap": 2.0,
}
# Squares of the sides, over the matrices of a layer: Σ (m² + n²) / Σ m·n = (4·2 + 3·17) / 16.
_SIDES = 59 / 16
_SQUARES = {"kron": 1.0, "soap": 2.0}  # triangular factors; factors and their bases


def state_bytes_per_param(optimizer: str, configuration: Configuration) -> float | None:
    """Bytes of state per parameter of the hidden matrices; None for an optimizer not known here.

    Args:
        optimizer: its name.
        configuration: of which ``block_size`` matters: matrices cut into square blocks have factors
            of the blocks' sides.
    """
    if optimizer not in _NUMBERS:
        return None
    sides = 2.0 if configuration.get("block_size") else _SIDES
    return _BYTES * (_NUMBERS[optimizer] + _SQUARES.get(optimizer, 0.0) * sides)
