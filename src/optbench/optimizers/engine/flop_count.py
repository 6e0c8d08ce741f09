"""Work: what an update computes besides one pass over gradient, parameter and state.

On an accelerator an elementwise update takes as long as its memory traffic; what must be counted
are matrix products, factorizations and further passes over the batch. Methods that have some
declare it beside their formulas, and plans turn that into time
(:mod:`optbench.study.planning.device_costs`).
"""

from __future__ import annotations

from dataclasses import dataclass

from optbench.optimizers.engine.buckets import Group


@dataclass(frozen=True, slots=True)
class FlopCount:
    """FLOPs by the units that do them.

    Args:
        bf16_flops: matrix products in bfloat16.
        fp32_flops: matrix products in float32, TensorFloat-32 not allowed.
        factor_flops: QR and triangular solves in float32, far from any unit's peak.
    """

    bf16_flops: float = 0.0
    fp32_flops: float = 0.0
    factor_flops: float = 0.0

    def __add__(self, other: FlopCount) -> FlopCount:
        return FlopCount(
            self.bf16_flops + other.bf16_flops,
            self.fp32_flops + other.fp32_flops,
            self.factor_flops + other.factor_flops,
        )

    def __mul__(self, factor: float) -> FlopCount:
        return FlopCount(
            self.bf16_flops * factor, self.fp32_flops * factor, self.factor_flops * factor
        )


class CountsFlops:
    """The FLOPs of a method's update; the defaults are those of an elementwise one."""

    @classmethod
    def update_flops(cls, shape: tuple[int, ...], group: Group, num_steps: int) -> FlopCount:
        """The work on one parameter in a whole run of ``num_steps`` updates on an accelerator.

        Args:
            shape: of the parameter.
            group: the hyperparameters and the role.
            num_steps: updates of the run; what is done once per run is left out.
        """
        return FlopCount()

    @classmethod
    def extra_passes(cls, group: Group, num_steps: int) -> float:
        """Forward-and-backward passes over a batch in a whole run, besides one per step."""
        return 0.0


def newton_schulz_flops(shape: tuple[int, ...], steps: int, dtype: str) -> FlopCount:
    """Newton–Schulz on one matrix: per iteration 4·r²·c + 2·r³, r = min(m, n), c = max(m, n).

    Args:
        shape: (m, n).
        steps: iterations.
        dtype: one of :data:`optbench.optimizers.linalg.NS_DTYPES`.
    """
    short, long = min(shape), max(shape)
    flops = steps * (4.0 * short**2 * long + 2.0 * short**3)
    return FlopCount(fp32_flops=flops) if dtype == "state" else FlopCount(bf16_flops=flops)
