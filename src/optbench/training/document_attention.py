"""Attention within documents: no token of a packed sequence sees another document's.

Scores depend on the distance of positions alone, so positions need not start again with a document:
each gets what it would get by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

# What may be attended to: a boolean (B, 1, S, S), or FlexAttention's list of blocks that hold it.
Mask: TypeAlias = Tensor | BlockMask


def document_mask(doc_ids: Tensor) -> Mask:
    """The causal mask within documents.

    Args:
        doc_ids: (B, S) integers; tokens of a row that have the same one are of one document.

    Returns:
        On a GPU the blocks that are not empty, so that time and memory follow the documents' sizes;
        elsewhere every pair of positions.
    """
    return block_mask(doc_ids) if doc_ids.device.type == "cuda" else pair_mask(doc_ids)


def pair_mask(doc_ids: Tensor) -> Tensor:
    """Boolean (B, 1, S, S): whether query (third axis) may see key (last axis)."""
    same = doc_ids[:, None, :, None] == doc_ids[:, None, None, :]
    return same.tril_()


def block_mask(doc_ids: Tensor) -> BlockMask:
    """The same for FlexAttention."""

    def sees(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (doc_ids[row, query] == doc_ids[row, key])

    rows, length = doc_ids.shape
    return create_block_mask(sees, rows, None, length, length, device=doc_ids.device.type)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
    """Softmax attention of ``q`` on ``k`` and ``v``, all (B, H, S, K).

    Args:
        mask: what may be attended to; None is everything up to the position itself.
    """
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if isinstance(mask, BlockMask):
        attention = _fused_flex_attention() if q.device.type == "cuda" else flex_attention
        return attention(q, k, v, block_mask=mask)  # type: ignore[return-value]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@cache  # once per process
def _fused_flex_attention() -> Callable[..., Tensor]:
    return torch.compile(flex_attention)  # type: ignore[return-value]
