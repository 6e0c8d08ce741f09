"""What tests need of the published results: 130m losses, and the places of the paper's ladder."""

from __future__ import annotations

from optbench.ladder import PAPER_SIZES
from optbench.published import read_published

RATIOS = [1.0, 2.0, 4.0, 8.0, 16.0]  # Chinchilla ratios: the budgets' unit
ADAMW_130M = [cell.loss for cell in read_published().of("adamw", "130m")]
MUON_130M = [cell.loss for cell in read_published().of("muon", "130m")]
# Speed-ups that the method of the paper gives for these losses.
ADAMW_SPEEDUPS = [0.996, 1.013, 1.003, 0.958, 1.034]
MUON_SPEEDUPS = [1.430, 1.344, 1.306, 1.299, 1.350]

PHASE_ONE = ["130m 1x", "130m 2x", "130m 4x", "130m 8x", "300m 1x", "520m 1x"]
WINDOW_RATIOS = RATIOS[:4]
*SIZES, SIZE_1_2B = (model.num_nonembedding_params for model in PAPER_SIZES.values())
