"""Model sizes and data ratios: the cells of a study, with their token budgets.

N counts the hidden matrices only, L·(3·d·ff + 4·d²); the Chinchilla ratio r gives a budget of
D = 20·r·N tokens. The nano ladder keeps the proportions of the paper's sizes (1 : 2.25 : 4 : 9 in
N, ff = 4d) where a run takes seconds on one CPU core; its vocabulary is small, because 128,256
output rows on a width of 32 would be all of the model.
"""

from __future__ import annotations

from dataclasses import dataclass

from optbench.config import ModelConfig

TOKENS_PER_PARAM = 20  # Chinchilla's rule of thumb, r = 1


def llama(
    num_layers: int, d_model: int, head_dim: int, vocab_size: int, seq_len: int
) -> ModelConfig:
    """A Llama of the study's proportions: ff = 4·d, heads of ``head_dim``."""
    return ModelConfig(
        num_layers=num_layers,
        d_model=d_model,
        d_ff=4 * d_model,
        num_heads=d_model // head_dim,
        vocab_size=vocab_size,
        seq_len=seq_len,
    )


PAPER_SIZES: dict[str, ModelConfig] = {
    "130m": llama(32, 512, 64, 128_256, 4096),
    "300m": llama(32, 768, 64, 128_256, 4096),
    "520m": llama(32, 1024, 64, 128_256, 4096),
    "1.2b": llama(32, 1536, 64, 128_256, 4096),
}

NANO_SIZES: dict[str, ModelConfig] = {
    "d32": llama(2, 32, 16, 1024, 64),
    "d48": llama(2, 48, 16, 1024, 64),
    "d64": llama(2, 64, 16, 1024, 64),
    "d96": llama(2, 96, 16, 1024, 64),
}

SIZES: dict[str, ModelConfig] = {**NANO_SIZES, **PAPER_SIZES}


@dataclass(frozen=True, slots=True)
class Cell:
    """A model size trained for a Chinchilla ratio."""

    size: str
    model: ModelConfig
    ratio: float

    @property
    def num_tokens(self) -> int:
        """The budget D = 20·r·N."""
        return round(self.ratio * TOKENS_PER_PARAM * self.model.num_nonembedding_params)

    @property
    def label(self) -> str:
        """Such as ``d32 1x``."""
        return f"{self.size} {self.ratio:g}x"
