"""The options of `optbench plan` that describe a device you do not have."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from optbench.cli.verbs import Finite
from optbench.study.planning.devices import DEFAULT_MFU, DEVICES, DeviceAllocation

_OPTIONS = (
    click.option(
        "--device", type=click.Choice(list(DEVICES)), help="Plan for this one, not for here."
    ),
    click.option(
        "--mfu",
        type=Finite(0, 1, min_open=True),
        help=f"Share of its bfloat16 peak that training reaches.  [default: {DEFAULT_MFU}]",
    ),
    click.option("--price", type=Finite(0), help="Of one device for one hour."),
    click.option("--devices", type=click.IntRange(1), help="Runs at a time.  [default: 1]"),
)


def allocation_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Add ``--device``, ``--mfu``, ``--price`` and ``--devices``, together as ``allocation``.

    The verb gets a :class:`DeviceAllocation`, or None where no device is named.
    """

    @functools.wraps(verb)
    def wrapped(
        *,
        device: str | None,
        mfu: float | None,
        price: float | None,
        devices: int | None,
        **others: Any,
    ) -> None:
        given = {"--mfu": mfu, "--price": price, "--devices": devices}
        lonely = [name for name, value in given.items() if value is not None]
        if device is None and lonely:
            raise click.UsageError(
                f"{' and '.join(lonely)} can only be given with --device ({', '.join(DEVICES)})."
            )
        allocation = None
        if device is not None:
            allocation = DeviceAllocation(DEVICES[device], mfu or DEFAULT_MFU, price, devices or 1)
        verb(allocation=allocation, **others)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
