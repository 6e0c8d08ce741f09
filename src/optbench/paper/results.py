"""The analysis of the published figures, computed once for terminal, JSON and page."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from optbench.analysis.claims.claim import Claim
from optbench.analysis.claims.families import ADAMW
from optbench.analysis.jsonable import to_jsonable
from optbench.paper.hyperparameters import (
    Extrapolation,
    SensitiveAxis,
    extrapolations,
    sensitive_axes,
)
from optbench.paper.noise import (
    DEFAULT_SIGMA,
    NoiseEvidence,
    checked_sigma,
    noise_evidence,
)
from optbench.paper.published_study import cell_losses, read_published_study
from optbench.paper.speedups import (
    BaselineFit,
    PaperSpeedup,
    Ranking,
    baseline_fits,
    case_studies,
    paper_speedups,
)
from optbench.paper.statements import Statement, judge_statements
from optbench.published import PublishedResults
from optbench.statistics.joint_fit import GoodnessOfFit, JointFit, fit_joint


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperResults:
    """The published results, analysed.

    Args:
        source: of the figures.
        licence: of the source.
        sigma: the assumed standard deviation of a published loss, nats per token.
        noise: what the figures show of it.
        optimizers: in the order of the file.
        fits: of the baseline, by size.
        speedups: of every optimizer in every cell, with the losses.
        joint: the joint fit of all cells; its intervals come from the scatter about it.
        goodness: of that fit, if ``sigma`` is all the noise there is.
        case_studies: who is ahead at 1.2b and at 16×.
        sensitive: hyperparameters that are sensitive to scale.
        extrapolations: of hyperparameters to 1.2b.
        claims: the nine, judged on these cells.
        statements: the paper's own, judged likewise.
        at_scatter: the same, with the scatter about the joint fit for ``sigma``.
    """

    source: str
    licence: str
    sigma: float
    noise: NoiseEvidence
    optimizers: tuple[str, ...]
    fits: tuple[BaselineFit, ...]
    speedups: tuple[PaperSpeedup, ...]
    joint: JointFit
    goodness: GoodnessOfFit
    case_studies: tuple[Ranking, ...]
    sensitive: tuple[SensitiveAxis, ...]
    extrapolations: tuple[Extrapolation, ...]
    claims: tuple[Claim, ...]
    statements: tuple[Statement, ...]
    at_scatter: tuple[Statement, ...]

    def speedup(self, optimizer: str, size: str, ratio: float) -> PaperSpeedup | None:
        """Of an optimizer in a cell, if it was published."""
        found = (
            s for s in self.speedups if (s.optimizer, s.size, s.ratio) == (optimizer, size, ratio)
        )
        return next(found, None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; a number that is infinite or does not exist becomes None."""
        return to_jsonable(dataclasses.asdict(self))


def analyse_paper(results: PublishedResults, sigma: float = DEFAULT_SIGMA) -> PaperResults:
    """Analyse the published results.

    Args:
        results: as published.
        sigma: standard deviation of a published loss, nats per token.

    Raises:
        PaperError: σ is not positive and finite.
    """
    study = read_published_study(results, checked_sigma(sigma))
    noise = noise_evidence(results, study.joint)
    noisier = read_published_study(results, noise.scatter, joint=study.joint)
    speedups = paper_speedups(study)
    # the fit is the same; only whether its scatter is that of the stated noise is asked
    stated = fit_joint(
        cell_losses(results), study.noise, baseline=ADAMW, by_size=True, replicates=0
    )
    assert stated.goodness is not None
    return PaperResults(
        source=results.source,
        licence=results.licence,
        sigma=sigma,
        noise=noise,
        optimizers=results.optimizers,
        fits=baseline_fits(study),
        speedups=speedups,
        joint=study.joint,
        goodness=stated.goodness,
        case_studies=case_studies(study),
        sensitive=sensitive_axes(results),
        extrapolations=extrapolations(results),
        claims=study.claims,
        statements=judge_statements(study, speedups),
        at_scatter=judge_statements(noisier, paper_speedups(noisier)),
    )
