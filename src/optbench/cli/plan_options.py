"""The options of `optbench plan` that describe a device which is not at hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from optbench.cli.verbs import Finite
from optbench.study.planning.devices import DEFAULT_MFU, DEVICES, Rental

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


def rental_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Add ``--device``, ``--mfu``, ``--price`` and ``--devices``, and pass them on as ``rental``.

    The verb gets a :class:`Rental`, or None where no device is named.
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
        rental = None
        if device is not None:
            rental = Rental(DEVICES[device], mfu or DEFAULT_MFU, price, devices or 1)
        verb(rental=rental, **others)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
