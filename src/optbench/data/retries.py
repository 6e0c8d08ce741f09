"""Reading on after a rate limit or a broken connection, from the document where it stopped."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from optbench.data.corpus import DataError
from optbench.errors import shortened

T = TypeVar("T")
_MOST_OF_MESSAGE = 300
TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
# Client libraries whose own errors about a connection are not built-in ConnectionErrors.
_CLIENTS = ("aiohttp", "botocore", "http", "httpcore", "httpx", "requests", "urllib3")
_SWITCHED_OFF = "OfflineModeIsEnabled"  # of huggingface_hub, when the user wants no network
_CONNECTION_WORDS = re.compile("Connect|Timeout|Protocol|IncompleteRead|ReadError|Payload|Chunked")


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a failed read is tried again, in seconds between the tries.

    Args:
        attempts: failures in a row, without a document between, after which reading is abandoned.
        first_wait: pause after the first; each further one is twice as long.
        longest_wait: no pause is longer, not even when the server asks for it.
    """

    attempts: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0
    sleep: Callable[[float], None] = time.sleep

    def wait(self, failures: int, error: BaseException) -> None:
        """Pause after the given number of failures in a row."""
        asked = retry_after(error) or 0.0
        self.sleep(min(self.longest_wait, max(asked, self.first_wait * 2 ** (failures - 1))))


def persistently(
    open_at: Callable[[int], Iterator[T]], start: int, what: str, patience: Patience
) -> Iterator[T]:
    """The items of a stream from item ``start`` on; a transient failure reopens it where it was.

    Args:
        open_at: opens the stream behind its first k items.
        what: names the stream in the error.

    Raises:
        DataError: it failed ``patience.attempts`` times in a row without giving another item, or in
            another way.
    """
    done, failures = start, 0
    while True:
        try:
            for item in open_at(done):
                done, failures = done + 1, 0
                yield item
        except DataError:
            raise
        except Exception as error:
            if not is_transient(error):
                raise DataError(
                    f"{what} cannot be read behind document {done} ({describe(error)})."
                ) from error
            failures += 1
            if failures >= patience.attempts:
                raise DataError(
                    f"{what} broke off behind document {done} and failed {failures} times in a row "
                    f"there; the last error was {describe(error)}. Nothing was skipped: everything "
                    f"before is kept, and the same command goes on from there."
                ) from error
            patience.wait(failures, error)
        else:
            return


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: rate limits, overloaded servers, broken connections."""
    return any(_is_transient(cause) for cause in _causes(error))


def http_status(error: BaseException) -> int | None:
    """The status code of an HTTP error of the common clients; None if it has none."""
    for value in (_member(error, "status"), _member(error, "code"), _response(error, "status")):
        if isinstance(value, int):
            return value
    value = _response(error, "status_code")
    return value if isinstance(value, int) else None


def retry_after(error: BaseException) -> float | None:
    """Seconds that the server asks to wait; None if it gives nothing or a date."""
    for cause in _causes(error):
        headers = _response(cause, "headers") or _member(cause, "headers")
        value = headers.get("Retry-After") if isinstance(headers, Mapping) else None
        if isinstance(value, str) and value.strip().isdigit():
            return float(value)
    return None


def describe(error: BaseException) -> str:
    """The error in one line: its class and the first line of its message."""
    first = shortened(str(error).strip().split("\n", 1)[0], _MOST_OF_MESSAGE)
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _is_transient(error: BaseException) -> bool:
    status = http_status(error)
    if status is not None:
        return status in TRANSIENT_STATUS
    kind = type(error)
    if isinstance(error, ConnectionError | TimeoutError):
        return kind.__name__ != _SWITCHED_OFF
    ours = kind.__module__.split(".", 1)[0] in _CLIENTS
    return ours and _CONNECTION_WORDS.search(kind.__name__) is not None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _response(error: BaseException, name: str) -> object:
    return _member(_member(error, "response"), name)


def _member(thing: object, name: str) -> object:
    # The clients share no base class, only these names.
    return getattr(thing, name, None)
