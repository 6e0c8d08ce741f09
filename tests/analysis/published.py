"""Final C4/EN losses of the 130m models from the results of arXiv 2509.02046 (Apache-2.0)."""

RATIOS = [1.0, 2.0, 4.0, 8.0, 16.0]  # Chinchilla ratios: the budgets' unit
ADAMW_130M = [
    3.5291428565979004,
    3.4077868461608887,
    3.3216564655303955,
    3.260563611984253,
    3.207158088684082,
]
MUON_130M = [
    3.4626309871673584,
    3.369025468826294,
    3.2946722507476807,
    3.2373132705688477,
    3.1924784183502197,
]
# Speed-ups that the method of the paper gives for these losses.
ADAMW_SPEEDUPS = [0.996, 1.013, 1.003, 0.958, 1.034]
MUON_SPEEDUPS = [1.430, 1.344, 1.306, 1.299, 1.350]
