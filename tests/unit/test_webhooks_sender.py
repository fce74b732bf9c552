"""One attempt: it goes to an address that was checked, follows nothing, waits for no one, and never raises."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pushsvc.access import Targets
from pushsvc.webhooks import sender as sender_module
from pushsvc.webhooks.sender import KEPT, Answer, Sender

from ..contract.kit import soon
from .webhook_receiver import Receiver, Reply, receiving

LOOPBACK = Targets(["127.0.0.0/8"])
CERTIFICATE = Path(__file__).parent / "webhook_tls.pem"
"""A certificate for hooks.example, signed by itself, and its key."""


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


class Names:
    """A resolver: each look-up takes the next answer, the last one stays."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def post(url: str, body: bytes = b"{}", *, targets: Targets = LOOPBACK, **options: Any) -> Answer:
    sender = Sender(targets, **{"timeout": 15.0, "places": 2} | options)
    try:
        return await soon(sender.post(url, {"webhook-id": "evt_1"}, body))
    finally:
        sender.close()


async def test_what_arrives_is_what_was_sent(receiver: Receiver) -> None:
    body = '{"a":"Zürich 🚀"}'.encode()
    receiver.reply = Reply(201, body=b"thank you")
    answer = await post(receiver.url("/a/b?token=x%20y&z"), body)
    assert answer == Answer(201, None, "thank you")
    assert answer.delivered
    [received] = receiver.received
    assert (received.path, received.body) == ("/a/b?token=x%20y&z", body)
    assert received.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert received.headers["webhook-id"] == "evt_1"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure_and_is_not_followed(receiver: Receiver, status: int) -> None:
    async with receiving() as elsewhere:
        receiver.reply = Reply(status, {"location": elsewhere.url()})
        answer = await post(receiver.url())
        assert answer.status == status
        assert not answer.delivered
        assert elsewhere.received == []
    assert len(receiver.received) == 1


@pytest.mark.parametrize(("status", "delivered"), [(200, True), (204, True), (299, True), (400, False), (500, False)])
async def test_only_2xx_is_delivered(receiver: Receiver, status: int, delivered: bool) -> None:
    receiver.reply = Reply(status)
    assert (await post(receiver.url())).delivered is delivered


async def test_nobody_listening_is_said_without_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    answer = await post(f"http://127.0.0.1:{port}/")
    assert (answer.status, answer.error) == (None, "connection refused")


async def test_a_receiver_that_never_answers_is_given_up(receiver: Receiver) -> None:
    receiver.reply = Reply(after=asyncio.Event())
    answer = await post(receiver.url(), timeout=0.1)
    assert (answer.status, answer.error) == (None, "no answer within 0.1 s")


async def test_a_name_server_that_never_answers_is_given_up() -> None:
    async def silent(_host: str) -> Sequence[str]:
        await asyncio.Event().wait()
        raise AssertionError

    assert (await post("https://hooks.example/", timeout=0.1, resolve=silent)).error == "no answer within 0.1 s"


async def test_the_status_counts_even_if_the_rest_never_comes(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "READ", 0.05)
    receiver.reply = Reply(raw=b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")
    answer = await post(receiver.url())
    assert (answer.status, answer.body) == (200, "some")


@pytest.mark.parametrize("raw", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 2", b"\x00" * 1000])
async def test_an_answer_that_is_none_is_a_failure(receiver: Receiver, raw: bytes) -> None:
    receiver.reply = Reply(raw=raw)
    answer = await post(receiver.url())
    assert (answer.status, answer.error) == (None, "no whole answer in HTTP came")


async def test_headers_without_end_are_a_failure(receiver: Receiver) -> None:
    receiver.reply = Reply(raw=b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200_000)
    assert (await post(receiver.url())).status is None


async def test_of_a_long_answer_the_beginning_is_kept(receiver: Receiver) -> None:
    receiver.reply = Reply(500, body=b"\x00\xff" + b"x" * 5_000_000)
    answer = await post(receiver.url())
    assert answer.body == "\ufffd\ufffd" + "x" * (KEPT - 2)


async def test_proxies_of_the_environment_are_not_asked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url(""))
        assert (await post(receiver.url())).delivered
        assert proxy.received == []


# Where it may go ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::ffff:127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1"]
)
async def test_a_name_that_resolves_to_a_private_address_is_not_called(receiver: Receiver, address: str) -> None:
    url = f"https://hooks.example:{receiver.port}/"
    answer = await post(url, targets=Targets(), resolve=Names([address]))
    assert answer.status is None
    assert str(answer.error).startswith("refused")
    assert address not in str(answer.error)
    assert receiver.open == receiver.most_open == 0


async def test_plain_http_needs_an_allowance(receiver: Receiver) -> None:
    url = receiver.url(host="hooks.example")
    assert str((await post(url, targets=Targets(), resolve=Names(["127.0.0.1"]))).error).startswith("refused")
    assert (await post(url, targets=Targets(["hooks.example"]), resolve=Names(["127.0.0.1"]))).delivered


async def test_the_connection_goes_to_the_address_that_was_checked_whatever_the_name_says_next() -> None:
    """DNS rebinding: the name's second answer is an address that is not allowed, with a server on the same port."""
    async with receiving("127.0.0.2") as allowed, receiving("127.0.0.1", allowed.port) as internal:
        names = Names(["127.0.0.2"], ["127.0.0.1"])
        targets = Targets(["127.0.0.2"])
        url = allowed.url(host="hooks.example")
        assert (await post(url, targets=targets, resolve=names)).delivered
        assert names.asked == ["hooks.example"]
        assert str((await post(url, targets=targets, resolve=names)).error).startswith("refused")
        assert len(allowed.received) == 1
        assert internal.most_open == 0


async def test_of_several_addresses_the_allowed_ones_are_tried_in_order() -> None:
    async with receiving("127.0.0.2") as allowed, receiving("127.0.0.1", allowed.port) as internal:
        names = Names(["127.0.0.1", "::1", "127.0.0.3", "127.0.0.2"])
        targets = Targets(["127.0.0.2", "127.0.0.3"])
        assert (await post(allowed.url(host="hooks.example"), targets=targets, resolve=names)).delivered
        assert internal.most_open == 0


async def test_names_are_resolved_by_the_system(receiver: Receiver) -> None:
    assert (await post(receiver.url(host="localhost"), targets=Targets(["localhost"]))).delivered


async def test_a_name_that_does_not_resolve_is_a_failure() -> None:
    async def unknown(_host: str) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    assert (await post("https://hooks.example/", resolve=unknown)).error == "the name does not resolve"


async def test_a_mistake_of_ours_is_a_failed_attempt_that_repeats_no_url(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_host: str) -> Sequence[str]:
        raise ZeroDivisionError("hunter2")

    answer = await post("https://hooks.example/", resolve=broken)
    assert answer == Answer(None, "could not be sent: ZeroDivisionError")
    assert "ZeroDivisionError" in caplog.text
    assert "hunter2" not in caplog.text


# TLS ----------------------------------------------------------------------------------------------


@pytest.fixture
def tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    return context


@pytest.mark.parametrize(
    ("host", "trusted", "error"),
    [
        ("hooks.example", True, None),
        ("other.example", True, "the certificate is not valid: Hostname mismatch"),
        ("hooks.example", False, "the certificate is not valid: self-signed certificate"),
    ],
    ids=["of the host", "of another host", "by nobody known"],
)
async def test_certificates_are_those_of_the_host_though_an_address_is_connected_to(
    tls: ssl.SSLContext, host: str, trusted: bool, error: str | None
) -> None:
    asked: list[str | None] = []
    tls.sni_callback = lambda _socket, name, _context: asked.append(name)
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls)
    url = f"https://{host}:{server.sockets[0].getsockname()[1]}/"
    context = ssl.create_default_context(cafile=CERTIFICATE) if trusted else None
    async with server:
        answer = await post(url, resolve=Names(["127.0.0.1"]), tls=context)
    assert asked == [host]
    assert answer.delivered is (error is None)
    assert len(receiver.received) == (error is None)
    assert error is None or str(answer.error).startswith(error)


async def test_a_receiver_without_tls_is_a_failure_of_tls(receiver: Receiver) -> None:
    receiver.reply = Reply(raw=b"HTTP/1.1 400 Bad Request\r\n\r\n")
    answer = await post(f"https://127.0.0.1:{receiver.port}/", timeout=0.2)
    assert answer.status is None


# Retry-After --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "text", "seconds"),
    [
        (429, "120", 120),
        (503, " 7 ", 7),
        (503, "99999999999999999999", 999999999999),
        (500, "120", None),
        (503, "soon", None),
        (503, "-1", None),
        (503, "", None),
    ],
)
async def test_retry_after_is_read_when_the_receiver_is_overloaded(
    receiver: Receiver, status: int, text: str, seconds: float | None
) -> None:
    receiver.reply = Reply(status, {"retry-after": text})
    assert (await post(receiver.url())).retry_after == seconds


async def test_retry_after_may_be_a_date(receiver: Receiver) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    receiver.replies.extend(
        [Reply(503, {"Retry-After": later}), Reply(503, {"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"})]
    )
    seconds = (await post(receiver.url())).retry_after
    assert seconds is not None
    assert 3500 < seconds <= 3600
    assert (await post(receiver.url())).retry_after == 0
