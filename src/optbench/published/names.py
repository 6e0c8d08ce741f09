"""What the published results call a hyperparameter, and what it is called here.

The source counts the batch in sequences of 4,096 tokens and the warm-up in steps, as this project's
``batch_size`` and ``warmup_steps`` do. Names without an equal here are kept: ``nesterov`` (always
false), ``lr_schedule`` (always linear where it is given), ``block_size`` and
``partition_grads_into_blocks`` (an implementation's way of cutting matrices), ``muon_epsilon`` and
``scion_epsilon`` (found to change nothing), ``preconditioner_init_scale``.
"""

from __future__ import annotations

from optbench.ladder import PAPER_SIZES

REPORTED_SIZES = tuple(PAPER_SIZES)
"""Model sizes of the published results, the smallest first."""

COMPLEMENTS = frozenset({"beta1", "beta2", "momentum", "shampoo_beta"})
"""Hyperparameters whose distance to one is what matters; the others are compared by factors."""

_OUR_NAMES = {
    "learning_rate": "lr",
    "epsilon": "eps",
    "train_batch_size": "batch_size",
    "warmup": "warmup_steps",
    "decay": "decay_frac",
    "max_grad_norm": "clip_norm",
    "min_lr_ratio": "final_frac",
    "muon_to_adam_lr": "aux_lr_ratio",
    "scion_to_signum_lr": "aux_lr_ratio",
    "preconditioner_update_probability": "min_update_probability",
    "update_prob_flat_start": "flat_steps",
}
_OUR_NAMES_IN = {"sophia": {"gamma": "rho"}}  # Mars has a gamma that is no threshold


def our_name(optimizer: str, source_name: str) -> str:
    """The name of a hyperparameter here, or the source's where there is no equal."""
    special = _OUR_NAMES_IN.get(optimizer, {})
    return special.get(source_name) or _OUR_NAMES.get(source_name, source_name)
