"""Eigenbases: rotations that follow the averages of G·Gᵀ and Gᵀ·G of a stack of matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from optbench.optimizers.linalg import eigenbasis


@dataclass(frozen=True, slots=True)
class Side:
    """The Gram matrices of one side, (N, k, k), and the basis that is kept near their own."""

    PARTS: ClassVar[tuple[str, str]] = ("gram", "basis")
    gram: Tensor
    basis: Tensor

    def refresh(self) -> Tensor:
        """One power iteration; the order (N, k) in which the old basis's columns went in."""
        powered = self.gram @ self.basis
        order = (self.basis * powered).sum(-2).argsort(dim=-1, descending=True, stable=True)
        powered = powered.gather(-1, order.unsqueeze(-2).expand_as(powered))
        self.basis.copy_(torch.linalg.qr(powered).Q)
        return order


@dataclass(frozen=True, slots=True)
class Rotation:
    """P for the rows and Q for the columns of a stack of N matrices (h, w); None leaves a side."""

    rows: Side | None
    columns: Side | None

    def forward(self, x: Tensor) -> Tensor:
        """Pᵀ·X·Q."""
        x = x if self.columns is None else x @ self.columns.basis
        return x if self.rows is None else self.rows.basis.mT @ x

    def back(self, x: Tensor) -> Tensor:
        """P·X·Qᵀ."""
        x = x if self.columns is None else x @ self.columns.basis.mT
        return x if self.rows is None else self.rows.basis @ x

    def accumulate(self, gradients: Tensor, beta: float) -> None:
        """Take the gradients into the averages of G·Gᵀ and Gᵀ·G."""
        if self.rows is not None:
            self.rows.gram.baddbmm_(gradients, gradients.mT, beta=beta, alpha=1 - beta)
        if self.columns is not None:
            self.columns.gram.baddbmm_(gradients.mT, gradients, beta=beta, alpha=1 - beta)

    def start(self, gradients: Tensor, beta: float) -> None:
        """Gram matrices and bases of the first gradients."""
        self.accumulate(gradients, beta)
        if self.rows is not None:
            self.rows.basis.copy_(_row_basis(gradients))
        if self.columns is not None:
            self.columns.basis.copy_(_row_basis(gradients.mT))

    def refresh(self, m: Tensor, v: Tensor) -> None:
        """Follow the Gram matrices, and carry the moments (N, h, w) over to the new bases."""
        momentum = self.back(m)
        if self.rows is not None:
            v.copy_(v.gather(1, self.rows.refresh().unsqueeze(2).expand_as(v)))
        if self.columns is not None:
            v.copy_(v.gather(2, self.columns.refresh().unsqueeze(1).expand_as(v)))
        m.copy_(self.forward(momentum))


def _row_basis(gradients: Tensor) -> Tensor:
    """The eigenvectors of G·Gᵀ, largest first; (N, h, w) → (N, h, h)."""
    height, width = gradients.shape[-2:]
    if height <= width:
        return eigenbasis(gradients @ gradients.mT)
    images = gradients @ eigenbasis(gradients.mT @ gradients)
    return torch.linalg.qr(images, mode="complete").Q
