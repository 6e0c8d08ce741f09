"""Lists of tensors as torch's fused kernels want them on each kind of device."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor


def foreach_chunks(
    lists: tuple[list[Tensor], ...], max_numel: int | None = None
) -> Iterator[tuple[list[Tensor], ...]]:
    """Everything at once on an accelerator; tensor by tensor for the cache of a CPU.

    Args:
        lists: of equal length; tensors at the same place have the same shape and are contiguous.
        max_numel: on a CPU, cut every tensor into pieces of at most this many elements.
    """
    if lists[0][0].device.type != "cpu":
        yield lists
        return
    for tensors in zip(*lists, strict=True):
        if max_numel is None:
            yield tuple([tensor] for tensor in tensors)
            continue
        flat = (tensor.view(-1).split(max_numel) for tensor in tensors)
        yield from (tuple([piece] for piece in pieces) for pieces in zip(*flat, strict=True))
