r"""The Llama of the study: RMSNorm, rotary positions, SwiGLU, untied embeddings, no biases.

Every linear weight is a separate ``(out, in)`` matrix (query, key and value are not fused), because
a matrix method must see one linear map at a time. The module names the :class:`Role` of each of its
parameters; which optimizer group a role belongs to is not decided here.

Initialisation (the study's): every linear weight from a normal of standard deviation 1/√fan_in cut
at three deviations, the token embedding likewise with 1/d, norm weights one.

In precision "bfloat16" the products of blocks and head take bfloat16 inputs, each weight rounded
where it is used; weights, norms, the residual stream and the loss are float32. That is what
torch.autocast does, written out, with each input of several products rounded once.

Shapes in this file: B sequences, S positions, H heads, K = head size, D = ``d_model``,
F = ``d_ff``, V = ``vocab_size``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from optbench.config import ModelConfig, Precision, Role
from optbench.training.cross_entropy import head_cross_entropy
from optbench.training.document_attention import Mask, attend, document_mask, pair_mask
from optbench.training.label_sampler import LabelSampler


def truncated_normal_(weight: Tensor, std: float, generator: torch.Generator) -> None:
    """Fill ``weight`` from a normal of scale ``std`` cut at 3 deviations (true std 0.986·std)."""
    nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std, generator=generator)


class Linear(nn.Linear):
    """x ↦ weight · x in the dtype of x."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__(fan_in, fan_out, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Transform each position of ``input`` (…, fan_in)."""
        return F.linear(input, self.weight.to(input.dtype))


class RMSNorm(nn.Module):
    """x ↦ gain · x / √(mean(x²) + 1e-5) over the last axis.

    Args:
        dtype: what the result is rounded to; None leaves it as it is.
    """

    def __init__(self, d_model: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(d_model))
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` of shape (…, D)."""
        normalised = F.rms_norm(x, (x.shape[-1],), self.gain, 1e-5)
        return normalised if self.dtype is None else normalised.to(self.dtype)


class RotaryPositions(nn.Module):
    """Rotate-half rotary embedding: pair (i, i + K/2) turns by position · θ^(−2i/K)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, seq_len: int, theta: float) -> None:
        super().__init__()
        frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angle = torch.outer(torch.arange(seq_len, dtype=torch.float64), frequency)
        angle = torch.cat([angle, angle], dim=-1)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Rotate ``x`` of shape (B, H, S, K); lower precisions are rounded once, at the end."""
        seq_len, half = x.shape[-2], x.shape[-1] // 2
        rotated = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
        return (x * self.cos[:seq_len] + rotated * self.sin[:seq_len]).to(x.dtype)


class Attention(nn.Module):
    """Causal multi-head attention, key-value heads = heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.d_model
        self.num_heads, self.head_dim = config.num_heads, config.head_dim
        self.q_proj = Linear(d, d)
        self.k_proj = Linear(d, d)
        self.v_proj = Linear(d, d)
        self.o_proj = Linear(d, d)

    def forward(self, x: Tensor, rotary: RotaryPositions, mask: Mask | None) -> Tensor:
        """Mix positions of ``x`` (B, S, D)."""
        split = (*x.shape[:-1], self.num_heads, self.head_dim)
        q, k, v = (
            proj(x).view(split).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = attend(rotary(q), rotary(k), v, mask)
        return self.o_proj(mixed.transpose(1, 2).reshape(x.shape))


class SwiGLU(nn.Module):
    """x ↦ down(silu(gate(x)) · up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.d_model, config.d_ff)
        self.up_proj = Linear(config.d_model, config.d_ff)
        self.down_proj = Linear(config.d_ff, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position of ``x`` (B, S, D)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Pre-norm attention, then pre-norm SwiGLU, each added to the residual stream."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, dtype)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.d_model, dtype)
        self.mlp = SwiGLU(config)

    def forward(self, x: Tensor, rotary: RotaryPositions, mask: Mask | None) -> Tensor:
        """One layer on ``x`` (B, S, D)."""
        x = x + self.attention(self.attention_norm(x), rotary, mask)
        return x + self.mlp(self.mlp_norm(x))


class Llama(nn.Module):
    """A decoder-only transformer that returns its mean next-token loss.

    Where documents are given, attention stays within them (see
    :mod:`optbench.training.document_attention`); every next token is predicted all the same.

    Args:
        config: sizes, already validated.
        seed: seed of the initialisation; the same seed gives the same weights for every optimizer.
        precision: of the products.
        activation_checkpointing: keep of each block only its input for the backward pass, which
            computes the rest again: the same numbers for a third more work.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        seed: int,
        precision: Precision = "float32",
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = activation_checkpointing
        dtype = torch.bfloat16 if precision == "bfloat16" else None
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.rotary = RotaryPositions(config.head_dim, config.seq_len, config.rope_theta)
        self.blocks = nn.ModuleList(Block(config, dtype) for _ in range(config.num_layers))
        self.final_norm = RMSNorm(config.d_model, dtype)
        self.head = Linear(config.d_model, config.vocab_size)
        self._initialise(seed)

    def compile_blocks(self) -> None:
        """Fuse each block by torch.compile; all blocks share what is compiled at the first step."""
        for block in self.blocks:
            block.compile()

    def _initialise(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        truncated_normal_(self.embedding.weight, 1 / self.config.d_model, generator)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                truncated_normal_(module.weight, module.in_features**-0.5, generator)

    def hidden_states(self, tokens: Tensor, doc_ids: Tensor | None = None) -> Tensor:
        """Normalised final states (B, S, D) after each of ``tokens`` (B, S)."""
        return self._hidden_states(tokens, None if doc_ids is None else document_mask(doc_ids))

    def _hidden_states(self, tokens: Tensor, mask: Mask | None) -> Tensor:
        x = self.embedding(tokens)
        recompute = self.activation_checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            if recompute:
                # No block draws random numbers, so none are set aside.
                x = checkpoint(
                    block, x, self.rotary, mask, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x = block(x, self.rotary, mask)
        return self.final_norm(x)

    def forward(self, tokens: Tensor, doc_ids: Tensor | None = None) -> Tensor:
        """Logits (B, S, V) after each of ``tokens`` (B, S)."""
        return self.head(self.hidden_states(tokens, doc_ids))

    def loss(self, tokens: Tensor, doc_ids: Tensor | None = None) -> Tensor:
        """Mean cross-entropy in nats of predicting each of ``tokens`` (B, S + 1) from its past.

        Args:
            doc_ids: (B, S) integers, which document each input token belongs to.
        """
        hidden = self.hidden_states(tokens[:, :-1], doc_ids).flatten(0, 1)
        return head_cross_entropy(hidden, self.head.weight, tokens[:, 1:].flatten())

    def sampled_label_loss(
        self, tokens: Tensor, sampler: LabelSampler, doc_ids: Tensor | None = None
    ) -> Tensor:
        """As :meth:`loss`, with targets drawn from the model's own predictions.

        The squared gradient of this loss estimates the diagonal of the Gauss–Newton matrix.

        Args:
            sampler: of the batch that ``tokens`` are the next sequences of.
        """
        hidden = self.hidden_states(tokens[:, :-1], doc_ids).flatten(0, 1)
        with torch.no_grad():
            pieces = sampler.split(hidden)
            labels = [sampler.sample(self._probabilities(piece)) for piece in pieces]
        return head_cross_entropy(hidden, self.head.weight, torch.cat(labels))

    def _probabilities(self, hidden: Tensor) -> Tensor:
        """Of the next token; a model that has diverged gets some, because sampling refuses NaN."""
        return self.head(hidden).float().softmax(-1).nan_to_num_(nan=1.0)

    def twice_differentiable_loss(self, tokens: Tensor, doc_ids: Tensor | None = None) -> Tensor:
        """As :meth:`loss`, by operations with second derivatives: slower, and stores logits."""
        mask = None if doc_ids is None else pair_mask(doc_ids)
        # Compiled blocks have first derivatives alone.
        with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            logits = self.head(self._hidden_states(tokens[:, :-1], mask))
        at_least_float32 = torch.promote_types(logits.dtype, torch.float32)
        logits = logits.flatten(0, 1).to(at_least_float32)
        return F.cross_entropy(logits, tokens[:, 1:].flatten())

    def heads(self) -> dict[str, int]:
        """Rows per attention head of every query and key weight, by its qualified name."""
        split = ("q_proj.weight", "k_proj.weight")
        names = (name for name, _ in self.named_parameters())
        return {name: self.config.head_dim for name in names if name.endswith(split)}

    def roles(self) -> dict[str, Role]:
        """The role of each parameter, by its qualified name; every parameter has exactly one."""
        roles = {}
        for name, parameter in self.named_parameters():
            if name.startswith("embedding."):
                roles[name] = Role.EMBEDDING
            elif name.startswith("head."):
                roles[name] = Role.HEAD
            else:
                roles[name] = Role.MATRIX if parameter.ndim == 2 else Role.NORM
        return roles
