from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from optbench.data.corpus import DataError
from optbench.data.retries import Patience, describe, is_transient, persistently, retry_after


class Response:
    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.status_code, self.headers = status, headers or {}


class HubError(Exception):
    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"{status} for url")
        self.response = Response(status, headers)


class Flaky:
    """Ten documents; raises each listed error once, before the document it is listed for."""

    def __init__(self, *errors: tuple[int, Exception]) -> None:
        self.errors = list(errors)
        self.opened: list[int] = []

    def __call__(self, skip: int) -> Iterator[int]:
        self.opened.append(skip)
        for document in range(skip, 10):
            if self.errors and self.errors[0][0] == document:
                raise self.errors.pop(0)[1]
            yield document


def read(stream: Flaky, waits: list[float] | None = None, attempts: int = 4) -> list[int]:
    sleep = (waits if waits is not None else []).append
    return list(persistently(stream, 0, "web", Patience(attempts=attempts, sleep=sleep)))


def test_two_rate_limits_and_a_reset_lose_and_repeat_nothing() -> None:
    stream = Flaky((0, HubError(429)), (0, HubError(429)), (7, ConnectionResetError("reset")))
    waits: list[float] = []
    assert read(stream, waits) == list(range(10))
    assert stream.opened == [0, 0, 0, 7]
    assert waits == [1, 2, 1]


def test_the_server_says_how_long_to_wait_up_to_a_minute() -> None:
    waits: list[float] = []
    read(Flaky((2, HubError(429, {"Retry-After": "17"})), (5, HubError(503))), waits)
    read(Flaky((2, HubError(429, {"Retry-After": "9999"}))), waits)
    assert waits == [17, 1, 60]


def test_a_stream_that_stays_broken_is_named_with_its_place() -> None:
    stream = Flaky(*[(6, ConnectionResetError("peer"))] * 9)
    with pytest.raises(DataError) as error:
        read(stream)
    assert str(error.value) == (
        "web broke off behind document 6 and failed 4 times in a row there; the last error was "
        "ConnectionResetError: peer. Nothing was skipped: everything before is kept, and the same "
        "command goes on from there."
    )
    assert stream.opened == [0, 6, 6, 6]


def test_failures_count_anew_after_a_document() -> None:
    assert read(Flaky(*[(i // 3, TimeoutError()) for i in range(30)])) == list(range(10))


@pytest.mark.parametrize("error", [HubError(404), HubError(401), ValueError("x"), OSError("io")])
def test_an_error_that_stays_ends_at_once_and_names_file_and_document(error: Exception) -> None:
    stream = Flaky((3, error))
    text = re.escape(f"({type(error).__name__}: {error})")
    with pytest.raises(DataError, match=rf"web cannot be read behind document 3 {text}\."):
        read(stream)
    assert stream.opened == [0]


def test_the_cause_of_an_error_counts() -> None:
    outer = RuntimeError("while reading")
    outer.__cause__ = HubError(502)
    assert is_transient(outer)
    assert not is_transient(RuntimeError("while reading"))
    assert retry_after(HubError(429, {"Retry-After": "Wed, 21 Oct 2026"})) is None


def test_connection_errors_of_the_clients_are_transient() -> None:
    kinds = {"httpx": "ReadTimeout", "aiohttp.client": "ServerDisconnectedConnectionError"}
    for module, name in kinds.items():
        kind = type(name, (Exception,), {"__module__": module})
        assert is_transient(kind())
    assert not is_transient(type("InvalidURL", (Exception,), {"__module__": "httpx"})())


def test_a_network_that_the_user_has_switched_off_is_not_waited_for() -> None:
    assert not is_transient(type("OfflineModeIsEnabled", (ConnectionError,), {})())


def test_an_error_without_text_is_described_by_its_class() -> None:
    assert describe(TimeoutError()) == "TimeoutError"
    assert describe(ValueError("a\nb")) == "ValueError: a"
