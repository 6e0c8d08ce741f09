"""ProcessGroup: the processes that execute one run together, and their collectives.

Everything here is called by all ranks at the same point of the run and gives all of them the same
bits, so that what is decided from it is decided alike. With one process (:data:`SINGLE_PROCESS`)
nothing is sent and nothing is changed. Messages are numbers and JSON, never pickles.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

# How long a rank waits for another one before it times out and the run is started again: longer
# than the evaluation of a large model by the slowest rank, or the writing of its weights.
TIMEOUT = datetime.timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """One of the processes of a run.

    Args:
        rank: 0 to ``size`` − 1; rank 0 reports and writes.
        size: processes.
        device: of this rank.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this rank is the one that reports and writes."""
        return self.rank == 0

    @property
    def backend(self) -> str:
        """What carries the messages: "gloo" or "nccl"; empty for one process."""
        return "" if self.size == 1 else dist.get_backend()

    def span(self, count: int) -> tuple[int, int]:
        """First and last + 1 of this rank's contiguous share of ``count`` things.

        Shares differ by one at most; earlier things go to lower ranks.
        """
        return self.rank * count // self.size, (self.rank + 1) * count // self.size

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, written into ``tensor``."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Put the sum over the ranks into the gradients, which all ranks or none have."""
        if self.size > 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)

    def total(self, value: float) -> float:
        """The sum of a float over the ranks, added up in their order; exact for one process."""
        return value if self.size == 1 else sum(self.gather(value))

    def mean(self, value: float) -> float:
        """The mean of a float over the ranks."""
        return self.total(value) / self.size

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true on any rank."""
        return flag if self.size == 1 else any(self.gather(flag))

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.gather(None)

    def gather(self, value: Any) -> list[Any]:
        """What every rank gave, in the order of the ranks.

        Args:
            value: JSON: numbers (a NaN or an infinity too), texts, flags, lists, dicts with texts
                as keys.
        """
        if self.size == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        length = torch.tensor([len(text)], device=self.device)
        lengths = [torch.empty_like(length) for _ in range(self.size)]
        dist.all_gather(lengths, length)
        sizes = [int(found) for found in lengths]
        padded = torch.zeros(max(sizes), dtype=torch.uint8, device=self.device)
        padded[: len(text)] = text.to(self.device)
        texts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(texts, padded)
        return [
            json.loads(bytes(found[:size].tolist()))
            for found, size in zip(texts, sizes, strict=True)
        ]


SINGLE_PROCESS = ProcessGroup()


@contextlib.contextmanager
def joined(timeout: datetime.timedelta = TIMEOUT) -> Generator[ProcessGroup]:
    """This process as one of the ranks that torchrun's environment describes, until the end.

    That is RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, which torchrun, its elastic
    agent and Ray Train set. On a machine with GPUs, LOCAL_RANK picks one and NCCL carries the
    messages; else gloo does. After an exception the group is left to the end of the process,
    because waiting for ranks that may be gone could take forever.

    Raises:
        RuntimeError: the others did not come within ``timeout``.
    """
    local_rank = int(os.environ["LOCAL_RANK"])
    store, rank, size = next(rendezvous("env://", timeout=timeout))
    # The elastic agent keeps one store for all attempts: without a name of its own a restarted rank
    # may find there where a dead one had listened, and wait for it.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    group: dict[str, Any] = {
        "store": PrefixStore(f"attempt {attempt}", store),
        "rank": rank,
        "world_size": size,
        "timeout": timeout,
    }
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device, **group)
    else:
        device = torch.device("cpu")
        dist.init_process_group("gloo", **group)
    yield ProcessGroup(dist.get_rank(), dist.get_world_size(), device)
    dist.destroy_process_group()
