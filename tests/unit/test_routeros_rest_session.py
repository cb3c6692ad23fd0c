"""REST to the device: against a real HTTPS server that fails where the test says."""

import asyncio
import base64
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from rds_csi.arrays.routeros.errors import (
    BadCredentials,
    GarbageReply,
    LostReply,
    NotPermitted,
    Refused,
    TlsMistrust,
    Unsent,
)
from rds_csi.arrays.routeros.options import RestOptions
from rds_csi.arrays.routeros.rest_session import RestSession, RestTimes
from rds_csi.deadline import set_deadline
from rds_csi.errors import DriverError, InvalidArgument
from tests.support.clock import FakeClock
from tests.support.routeros_servers import LOOPBACK, Authority, Request, RestDevice, tcp_server

SHORT = 0.1
# A deadline that is reached, but that a step before it must not reach on a busy machine.
MODERATE = 1.0
# Deadlines that a test does not mean to reach.
LONG = 30.0
TIMES = RestTimes(connect=LONG, reply=LONG, total=LONG, place=LONG, close=LONG)
PASSWORD = 'pass word:with "odd" ch@racters%'


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def device(tmp_path: Path, authority: Authority) -> AsyncIterator[RestDevice]:
    context, _ = authority.server_context(tmp_path)
    async with RestDevice().serve(context) as device:
        yield device


@pytest.fixture
def options(tmp_path: Path, authority: Authority, device: RestDevice) -> RestOptions:
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    return RestOptions(LOOPBACK, "csi", str(tmp_path / "password"), tls_ca=str(tmp_path / "ca.pem"), port=device.port)


@asynccontextmanager
async def session(
    options: RestOptions, times: RestTimes = TIMES, clock: FakeClock | None = None, body_limit: int = 1 << 20
) -> AsyncIterator[RestSession]:
    """A session that leaves no task behind."""
    before = asyncio.all_tasks()
    made = RestSession(options, clock=(clock or FakeClock()).clock, times=times, body_limit=body_limit)
    try:
        yield made
    finally:
        await made.close()
        assert not {task for task in asyncio.all_tasks() - before if "RestSession" in repr(task.get_coro())}


def with_users(options: RestOptions, path: Path, *users: str) -> RestOptions:
    path.write_text("".join(f"{user}:{PASSWORD}\n" for user in users))
    return replace(options, user="", password_file="", users_file=str(path))


def user_of(request: Request) -> str:
    return base64.b64decode(request.headers["authorization"].split()[1]).decode().partition(":")[0]


class TestRequests:
    async def test_ids_queries_bodies_and_credentials_arrive_as_they_are(
        self, device: RestDevice, options: RestOptions
    ) -> None:
        async def created(request: Request) -> None:
            request.answer(201, {".id": "*2B", "slot": "x"})

        device.on_request = created
        async with session(options) as rest:
            reply = await rest.request("PUT", "/rest/disk/*2B?slot=x&.proplist=.id,slot", {"file-size": 5})
        assert (reply.status, reply.json, reply.refusal) == (201, {".id": "*2B", "slot": "x"}, "")
        (request,) = device.requests
        assert (request.method, request.target) == ("PUT", "/rest/disk/*2B?slot=x&.proplist=.id,slot")
        assert request.body == b'{"file-size": 5}'
        assert request.headers["content-type"] == "application/json"
        assert base64.b64decode(request.headers["authorization"].split()[1]).decode() == f"csi:{PASSWORD}"

    async def test_a_reply_without_a_body_is_none(self, device: RestDevice, options: RestOptions) -> None:
        async def gone(request: Request) -> None:
            request.answer(204)

        device.on_request = gone
        async with session(options) as rest:
            assert (await rest.request("DELETE", "/rest/disk/*2B")).json is None

    async def test_one_connection_serves_all_requests(self, device: RestDevice, options: RestOptions) -> None:
        async with session(options) as rest:
            for _ in range(5):
                await rest.request("GET", "/rest/disk")
            assert (rest.counters.connections, rest.counters.requests) == (1, 5)
        assert device.connections == 1

    @pytest.mark.parametrize("path", ["/disk", "/rest/a b", "/rest/a#b", "rest/disk", "/rest/a\r\nX: y", "/rest/a?b?c"])
    async def test_a_path_that_would_need_quoting_is_refused(
        self, device: RestDevice, options: RestOptions, path: str
    ) -> None:
        async with session(options) as rest:
            with pytest.raises(InvalidArgument):
                await rest.request("GET", path)
        assert not device.connections

    async def test_the_environment_does_not_count(
        self, device: RestDevice, options: RestOptions, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        async with session(options) as rest:
            assert (await rest.request("GET", "/rest/disk")).status == 200

    async def test_a_redirect_is_not_followed(self, device: RestDevice, options: RestOptions) -> None:
        async def elsewhere(request: Request) -> None:
            request.raw(b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")

        device.on_request = elsewhere
        async with session(options) as rest:
            with pytest.raises(GarbageReply):
                await rest.request("GET", "/rest/disk")
        assert len(device.requests) == 1

    async def test_foreign_bytes_do_not_spoil_a_reply(self, device: RestDevice, options: RestOptions) -> None:
        async def latin(request: Request) -> None:
            request.answer(200, b'[{"comment": "caf\xe9\tbar"}]')

        device.on_request = latin
        async with session(options) as rest:
            assert (await rest.request("GET", "/rest/disk")).json == [{"comment": "caf\ufffd\tbar"}]


class TestStatuses:
    @pytest.mark.parametrize(
        ("status", "body", "refusal"),
        [
            (400, {"error": 400, "message": "Bad Request", "detail": "failure: already have such entry"}, "already"),
            (400, {"error": 400, "message": "Bad Request", "detail": "unknown parameter x"}, "unknown parameter x"),
            (404, {"error": 404, "message": "Not Found"}, "Not Found"),
            (406, {"error": 406, "message": "Not Acceptable"}, "Not Acceptable"),
        ],
    )
    async def test_what_routeros_refuses_is_a_reply(
        self, device: RestDevice, options: RestOptions, status: int, body: dict[str, object], refusal: str
    ) -> None:
        async def refuse(request: Request) -> None:
            request.answer(status, body)

        device.on_request = refuse
        async with session(options) as rest:
            reply = await rest.request("PATCH", "/rest/disk/*2B", {})
        assert reply.status == status
        assert refusal in reply.refusal

    @pytest.mark.parametrize(
        ("status", "body", "kind", "words"),
        [
            (401, {"error": 401, "message": "Unauthorized"}, BadCredentials, "rest-api"),
            (401, b"<html>", BadCredentials, "password file"),
            (403, b"<html>Forbidden</html>", Refused, "/ip/service/webserver"),
            (500, {"error": 500, "message": "x", "detail": "std failure: not allowed (9)"}, NotPermitted, "policy api"),
            (500, {"error": 500, "message": "not enough permissions (9)"}, NotPermitted, "policies read, write"),
            (400, {"error": 400, "message": "x", "detail": "not enough permissions (9)"}, NotPermitted, "policies"),
            (400, {"error": 400, "message": "Bad Request", "detail": "Session closed"}, LostReply, "Session closed"),
            (500, {"error": 500, "message": "std failure: timeout (13)"}, LostReply, "timeout"),
            (200, b"<html>Welcome</html>", GarbageReply, "no JSON"),
            (200, b'[{"slot": "x"', GarbageReply, "no JSON"),
            (200, b"[" * 100_000, GarbageReply, "no JSON"),
            (404, b"<html>nginx</html>", GarbageReply, "no JSON"),
            (400, {"unexpected": True}, GarbageReply, "not RouterOS"),
            (400, None, GarbageReply, "not RouterOS"),
        ],
    )
    async def test_every_other_status_says_what_is_known(
        self,
        device: RestDevice,
        options: RestOptions,
        status: int,
        body: object,
        kind: type[DriverError],
        words: str,
    ) -> None:
        async def answer(request: Request) -> None:
            request.answer(status, body)

        device.on_request = answer
        async with session(options) as rest:
            with pytest.raises(kind, match=words) as caught:
                await rest.request("GET", "/rest/disk")
        assert type(caught.value) is kind
        assert PASSWORD not in str(caught.value)


class TestTls:
    async def test_an_expired_certificate_is_told_with_its_remedy(
        self, tmp_path: Path, authority: Authority, options: RestOptions
    ) -> None:
        context, _ = authority.server_context(tmp_path, days=(-3, -1))
        async with RestDevice().serve(context) as device, session(replace(options, port=device.port)) as rest:
            with pytest.raises(TlsMistrust, match=r"expired.*Renew"):
                await rest.request("GET", "/rest/disk")
            assert not device.requests

    async def test_a_certificate_from_the_future_is_a_matter_of_clocks(
        self, tmp_path: Path, authority: Authority, options: RestOptions
    ) -> None:
        context, _ = authority.server_context(tmp_path, days=(1, 3))
        async with RestDevice().serve(context) as device, session(replace(options, port=device.port)) as rest:
            with pytest.raises(TlsMistrust, match="clocks"):
                await rest.request("GET", "/rest/disk")

    async def test_a_certificate_of_another_device_is_refused(
        self, tmp_path: Path, authority: Authority, options: RestOptions
    ) -> None:
        context, _ = authority.server_context(tmp_path, address="192.0.2.1")
        async with RestDevice().serve(context) as device, session(replace(options, port=device.port)) as rest:
            with pytest.raises(TlsMistrust, match="subject-alt-name"):
                await rest.request("GET", "/rest/disk")

    async def test_another_ca_is_refused_until_its_file_is_replaced(
        self, tmp_path: Path, authority: Authority, device: RestDevice, options: RestOptions
    ) -> None:
        (tmp_path / "ca.pem").write_bytes(Authority().pem)
        clock = FakeClock()
        async with session(options, clock=clock) as rest:
            with pytest.raises(TlsMistrust, match="tls-ca"):
                await rest.request("GET", "/rest/disk")
            assert not device.requests
            (tmp_path / "ca.pem").write_bytes(authority.pem)
            clock.seconds += 1
            assert (await rest.request("GET", "/rest/disk")).status == 200

    async def test_a_pinned_certificate_needs_neither_ca_nor_name_nor_dates(
        self, tmp_path: Path, authority: Authority, options: RestOptions
    ) -> None:
        context, fingerprint = authority.server_context(tmp_path, address="192.0.2.1", days=(-3, -1))
        async with RestDevice().serve(context) as device:
            pinned = replace(options, port=device.port, tls_ca="", tls_fingerprint=fingerprint)
            async with session(pinned) as rest:
                assert (await rest.request("GET", "/rest/disk")).status == 200

    async def test_another_certificate_than_the_pinned_one_never_sees_the_password(
        self, device: RestDevice, options: RestOptions
    ) -> None:
        pinned = replace(options, tls_ca="", tls_fingerprint="ab" * 32)
        async with session(pinned) as rest:
            with pytest.raises(TlsMistrust, match=r"pinned.*fingerprint is [0-9a-f]{64}"):
                await rest.request("GET", "/rest/disk")
            assert rest.counters.requests == 0
        assert not device.requests

    async def test_a_ca_file_that_is_none_is_told(
        self, tmp_path: Path, device: RestDevice, options: RestOptions
    ) -> None:
        (tmp_path / "ca.pem").write_text("hello")
        async with session(options) as rest:
            with pytest.raises(TlsMistrust, match="PEM"):
                await rest.request("GET", "/rest/disk")

    async def test_a_port_without_tls_is_told(self, options: RestOptions) -> None:
        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()

        async with tcp_server(plain) as port, session(replace(options, port=port)) as rest:
            with pytest.raises(TlsMistrust, match="www-ssl"):
                await rest.request("GET", "/rest/disk")


class TestFailures:
    async def test_a_closed_port_is_unsent(self, options: RestOptions) -> None:
        async with tcp_server(lambda *_: asyncio.sleep(0)) as port:
            pass
        async with session(replace(options, port=port)) as rest:
            with pytest.raises(Unsent):
                await rest.request("GET", "/rest/disk")

    @pytest.mark.parametrize("seconds", [0, None])
    async def test_a_server_that_is_no_tls_partner_is_unsent(self, options: RestOptions, seconds: float | None) -> None:
        async def close_or_stay(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
            if seconds is None:
                await asyncio.Event().wait()

        times = TIMES if seconds == 0 else replace(TIMES, connect=SHORT)
        async with tcp_server(close_or_stay) as port, session(replace(options, port=port), times) as rest:
            with pytest.raises(Unsent):
                await rest.request("PUT", "/rest/disk", {})
            assert rest.counters.requests == 0

    async def test_after_a_failed_connection_callers_are_told_at_once_until_the_pause_is_over(
        self, options: RestOptions
    ) -> None:
        dials = 0

        async def count(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
            nonlocal dials
            dials += 1

        clock = FakeClock()
        async with tcp_server(count) as port, session(replace(options, port=port), clock=clock) as rest:
            results = await asyncio.gather(
                *(rest.request("GET", "/rest/disk") for _ in range(16)), return_exceptions=True
            )
            assert all(isinstance(result, Unsent) for result in results)
            assert dials == 1
            clock.seconds += 1
            with pytest.raises(Unsent):
                await rest.request("GET", "/rest/disk")
            assert dials == 2

    @pytest.mark.parametrize(
        "data",
        [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[{", b"\x00\xff"],
    )
    async def test_a_reply_that_is_cut_is_lost(self, device: RestDevice, options: RestOptions, data: bytes) -> None:
        async def cut(request: Request) -> None:
            request.raw(data)

        device.on_request = cut
        async with session(options) as rest:
            with pytest.raises(LostReply):
                await rest.request("PUT", "/rest/disk", {"slot": "x"})
        assert len(device.requests) == 1

    async def test_a_mute_device_is_lost_after_the_deadline(self, device: RestDevice, options: RestOptions) -> None:
        async def stay(_: Request) -> None:
            await asyncio.Event().wait()

        device.on_request = stay
        async with session(options, replace(TIMES, reply=SHORT)) as rest:
            with pytest.raises(LostReply, match="in time"):
                await rest.request("PUT", "/rest/disk", {})

    async def test_a_reply_that_drips_is_lost_after_the_whole_deadline(
        self, device: RestDevice, options: RestOptions
    ) -> None:
        async def drip(request: Request) -> None:
            request.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
            while True:
                request.raw(b" ")
                await asyncio.sleep(SHORT / 10)

        async with session(options, replace(TIMES, reply=LONG, total=MODERATE)) as rest:
            await rest.request("GET", "/rest/disk")
            device.on_request = drip
            with pytest.raises(LostReply, match="in time"):
                await rest.request("GET", "/rest/disk")

    async def test_a_body_that_is_too_long_is_garbage(self, device: RestDevice, options: RestOptions) -> None:
        async def flood(request: Request) -> None:
            request.answer(200, b"[" + b" " * 100_000 + b"]")

        device.on_request = flood
        async with session(options, body_limit=1000) as rest:
            with pytest.raises(GarbageReply):
                await rest.request("GET", "/rest/disk")

    async def test_a_connection_that_the_device_closed_while_idle_is_made_anew(
        self, device: RestDevice, options: RestOptions
    ) -> None:
        async def last(request: Request) -> None:
            request.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n[]")

        device.on_request = last
        async with session(options) as rest:
            for _ in range(3):
                await rest.request("GET", "/rest/disk")
            assert rest.counters.connections == 3


class TestUsers:
    async def test_one_user_has_one_request_at_a_time_in_the_order_they_came(
        self, device: RestDevice, options: RestOptions
    ) -> None:
        running = 0

        async def alone(request: Request) -> None:
            nonlocal running
            running += 1
            assert running == 1
            await asyncio.sleep(0)
            running -= 1
            request.answer(200, [])

        device.on_request = alone
        async with session(options) as rest:
            await asyncio.gather(*(rest.request("GET", f"/rest/disk/{number}") for number in range(16)))
        assert [request.target for request in device.requests] == [f"/rest/disk/{number}" for number in range(16)]

    async def test_several_users_work_at_once_each_on_one(
        self, device: RestDevice, options: RestOptions, tmp_path: Path
    ) -> None:
        busy: set[str] = set()
        most = 0
        all_there = asyncio.Event()

        async def answer(request: Request) -> None:
            nonlocal most
            user = user_of(request)
            assert user not in busy
            busy.add(user)
            most = max(most, len(busy))
            if most == 3:
                all_there.set()
            await all_there.wait()
            busy.discard(user)
            request.answer(200, [])

        device.on_request = answer
        async with session(with_users(options, tmp_path / "users", "a", "b", "c")) as rest:
            await asyncio.gather(*(rest.request("GET", "/rest/disk") for _ in range(12)))
            assert rest.counters.connections == 3
        assert most == 3

    async def test_a_cancelled_caller_leaves_the_request_running_and_its_user_busy(
        self, device: RestDevice, options: RestOptions
    ) -> None:
        arrived, release = asyncio.Event(), asyncio.Event()
        answered: list[str] = []

        async def slow(request: Request) -> None:
            arrived.set()
            await release.wait()
            answered.append(request.target)
            request.answer(200, [])

        device.on_request = slow
        async with session(options) as rest:
            first = asyncio.ensure_future(rest.request("GET", "/rest/first"))
            await arrived.wait()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            second = asyncio.ensure_future(rest.request("GET", "/rest/second"))
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(device.requests) == 1
            release.set()
            await second
        assert answered == ["/rest/first", "/rest/second"]

    async def test_a_waiting_caller_that_is_cancelled_sends_nothing(
        self, device: RestDevice, options: RestOptions
    ) -> None:
        arrived, release = asyncio.Event(), asyncio.Event()

        async def slow(request: Request) -> None:
            arrived.set()
            await release.wait()
            request.answer(200, [])

        device.on_request = slow
        async with session(options) as rest:
            tasks = [asyncio.ensure_future(rest.request("GET", f"/rest/{number}")) for number in range(3)]
            await arrived.wait()
            tasks[1].cancel()
            release.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(results[1], asyncio.CancelledError)
        assert [request.target for request in device.requests] == ["/rest/0", "/rest/2"]

    async def test_a_caller_cancelled_while_the_files_are_read_is_no_harm_to_the_next(
        self, device: RestDevice, options: RestOptions, tmp_path: Path
    ) -> None:
        password = tmp_path / "password"
        password.unlink()
        os.mkfifo(password)
        async with session(options) as rest:
            first = asyncio.ensure_future(rest.request("GET", "/rest/first"))
            for _ in range(5):
                await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            second = asyncio.ensure_future(rest.request("GET", "/rest/second"))
            await asyncio.to_thread(password.write_text, PASSWORD)
            assert (await second).status == 200
        assert [request.target for request in device.requests] == ["/rest/second"]

    async def test_close_waits_for_what_is_under_way(self, device: RestDevice, options: RestOptions) -> None:
        arrived, release = asyncio.Event(), asyncio.Event()

        async def slow(request: Request) -> None:
            arrived.set()
            await release.wait()
            request.answer(200, ["done"])

        device.on_request = slow
        async with session(options) as rest:
            running = asyncio.ensure_future(rest.request("PUT", "/rest/disk", {}))
            await arrived.wait()
            closing = asyncio.ensure_future(rest.close())
            await asyncio.sleep(0)
            with pytest.raises(Unsent, match="closed for good"):
                await rest.request("GET", "/rest/disk")
            release.set()
            assert (await running).json == ["done"]
            await closing

    async def test_close_does_not_wait_for_ever(self, device: RestDevice, options: RestOptions) -> None:
        arrived = asyncio.Event()

        async def stay(_: Request) -> None:
            arrived.set()
            await asyncio.Event().wait()

        device.on_request = stay
        async with session(options, replace(TIMES, close=SHORT)) as rest:
            running = asyncio.ensure_future(rest.request("PUT", "/rest/disk", {}))
            await arrived.wait()
            await rest.close()
            with pytest.raises(LostReply):
                await running

    async def test_waiting_for_a_user_has_a_deadline(self, device: RestDevice, options: RestOptions) -> None:
        arrived, release = asyncio.Event(), asyncio.Event()

        async def slow(request: Request) -> None:
            arrived.set()
            await release.wait()
            request.answer(200, [])

        device.on_request = slow
        async with session(options, replace(TIMES, place=SHORT)) as rest:
            running = asyncio.ensure_future(rest.request("GET", "/rest/disk"))
            await arrived.wait()
            with pytest.raises(Unsent, match="busy"):
                await rest.request("GET", "/rest/disk")
            release.set()
            await running

    async def test_a_caller_whose_time_is_over_sends_nothing(self, device: RestDevice, options: RestOptions) -> None:
        async with session(options) as rest:

            async def late() -> None:
                set_deadline(0.0)
                await rest.request("GET", "/rest/disk")

            with pytest.raises(Unsent, match="time was over"):
                await asyncio.create_task(late())
        assert not device.connections


class TestSecrets:
    async def test_a_rotated_password_counts_at_the_next_request(
        self, tmp_path: Path, device: RestDevice, options: RestOptions
    ) -> None:
        async with session(options) as rest:
            await rest.request("GET", "/rest/disk")
            (tmp_path / "password").write_text("another\n")
            await rest.request("GET", "/rest/disk")
        first, second = (request.headers["authorization"] for request in device.requests)
        assert first != second

    async def test_users_come_and_go_with_their_file(
        self, device: RestDevice, options: RestOptions, tmp_path: Path
    ) -> None:
        users = tmp_path / "users"
        async with session(with_users(options, users, "a")) as rest:
            await rest.request("GET", "/rest/disk")
            with_users(options, users, "b")
            await rest.request("GET", "/rest/disk")
        assert [user_of(request) for request in device.requests] == ["a", "b"]

    async def test_a_missing_password_file_sends_nothing(
        self, tmp_path: Path, device: RestDevice, options: RestOptions
    ) -> None:
        (tmp_path / "password").unlink()
        async with session(options) as rest:
            with pytest.raises(BadCredentials, match="cannot be read"):
                await rest.request("GET", "/rest/disk")
        assert not device.connections

    async def test_the_password_is_in_no_log_no_repr_and_no_error(
        self, device: RestDevice, options: RestOptions, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)

        async def refuse(request: Request) -> None:
            request.answer(401, {"error": 401, "message": "Unauthorized"})

        device.on_request = refuse
        async with session(options) as rest:
            with pytest.raises(BadCredentials) as caught:
                await rest.request("GET", "/rest/disk")
            header = device.requests[0].headers["authorization"].split()[1]
            shown = [caplog.text, repr(rest), str(caught.value), repr(caught.value), repr(options), repr(vars(rest))]
        for text in shown:
            assert PASSWORD not in text
            assert header not in text
