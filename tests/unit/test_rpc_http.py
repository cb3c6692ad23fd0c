"""The HTTP endpoint: its few paths, and nothing that a stranger sends does harm."""

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rds_csi.errors import ConfigurationError
from rds_csi.metrics import Metrics
from rds_csi.rpc.http import Document, HttpEndpoint
from tests.support.rpc import eventually, open_descriptors


async def well() -> str:
    return ""


async def ill() -> str:
    return "the array\r\nis away"


async def broken() -> str:
    raise RuntimeError("internal detail")


@asynccontextmanager
async def endpoint(ready: str = "well") -> AsyncIterator[HttpEndpoint]:
    checks = {"well": well, "ill": ill, "broken": broken}
    http = HttpEndpoint("127.0.0.1:0", Metrics(), healthy=well, ready=checks[ready])
    await http.start()
    try:
        yield http
    finally:
        await http.close()


async def ask(http: HttpEndpoint, request: bytes) -> tuple[int, str]:
    """Status and body of the answer to ``request``."""
    reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
    writer.write(request)
    answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split(" ")[1]), body


async def get(http: HttpEndpoint, path: str) -> tuple[int, str]:
    return await ask(http, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


async def test_metrics_and_health_are_served() -> None:
    async with endpoint() as http:
        status, body = await get(http, "/metrics?name=x")
        assert status == 200
        assert "rds_csi_build_info" in body
        assert await get(http, "/healthz") == (200, "ok\n")
        assert await get(http, "/readyz") == (200, "ok\n")


async def test_what_is_not_ready_says_why_in_one_line() -> None:
    async with endpoint("ill") as http:
        assert await get(http, "/readyz") == (503, "the array\\r\\nis away\n")
        assert await get(http, "/healthz") == (200, "ok\n")


async def test_a_check_that_fails_is_a_problem_without_its_details() -> None:
    async with endpoint("broken") as http:
        assert await get(http, "/readyz") == (503, "the check failed: RuntimeError\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nope HTTP/1.1\r\n\r\n", 404),
        (b"GET /../etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET\r\n\r\n", 400),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
    ],
)
async def test_everything_else_is_refused(request_: bytes, status: int) -> None:
    async with endpoint() as http:
        assert (await ask(http, request_))[0] == status


async def test_head_has_no_body() -> None:
    async with endpoint() as http:
        assert await ask(http, b"HEAD /healthz HTTP/1.1\r\n\r\n") == (200, "")


async def test_clients_that_say_nothing_are_bounded_and_leave_nothing() -> None:
    before = open_descriptors()
    async with endpoint() as http:
        connections = [await asyncio.open_connection("127.0.0.1", http.port) for _ in range(40)]
        await eventually(lambda: open_descriptors() <= before + 40 + 16 + 1, "at most sixteen are kept")
        assert (await get(http, "/healthz"))[0] == 200, "they keep no probe out"
        for _, writer in connections:
            writer.close()
        await eventually(lambda: open_descriptors() <= before + 1, "only the listening socket is left")
        assert (await get(http, "/healthz"))[0] == 200


async def test_without_an_address_nothing_listens() -> None:
    http = HttpEndpoint("", Metrics(), healthy=well, ready=well)
    await http.start()
    assert http.port == 0
    await http.close()


async def test_an_address_that_cannot_be_had_is_told() -> None:
    async with endpoint() as http:
        other = HttpEndpoint(f"127.0.0.1:{http.port}", Metrics(), healthy=well, ready=well)
        with pytest.raises(ConfigurationError, match=r"cannot listen on .* Choose another --http-endpoint"):
            await other.start()


async def operations() -> object:
    return [{"key": "pvc-1", "step": "mkfs.ext4 läuft"}]


async def unwritable() -> object:
    return {"key": object()}


async def broken_document() -> object:
    raise RuntimeError("internal detail")


@asynccontextmanager
async def unix_endpoint(path: Path, document: Document = operations) -> AsyncIterator[HttpEndpoint]:
    http = HttpEndpoint(f"unix:{path}", Metrics(), healthy=well, ready=well, documents={"/operations": document})
    await http.start()
    try:
        yield http
    finally:
        await http.close()


async def ask_unix(path: Path, target: str, method: str = "GET") -> tuple[str, str]:
    """Head and body of the answer."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return head, body


async def test_a_document_is_served_as_json(tmp_path: Path) -> None:
    path = tmp_path / "status.sock"
    async with unix_endpoint(path) as http:
        head, body = await ask_unix(path, "/operations")
        assert head.startswith("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
        assert json.loads(body) == await operations()
        assert (await ask_unix(path, "/operations", "HEAD"))[1] == ""
        assert (await ask_unix(path, "/healthz"))[1] == "ok\n"
        assert (await ask_unix(path, "/nope"))[1] == "there are /metrics, /healthz, /readyz, /operations\n"
        assert http.port == 0


@pytest.mark.parametrize(("document", "name"), [(broken_document, "RuntimeError"), (unwritable, "TypeError")])
async def test_a_document_that_cannot_be_made_is_a_problem_without_its_details(
    tmp_path: Path, document: Document, name: str
) -> None:
    path = tmp_path / "status.sock"
    async with unix_endpoint(path, document):
        head, body = await ask_unix(path, "/operations")
    assert head.startswith("HTTP/1.1 503 ")
    assert body == f"the check failed: {name}\n"


async def test_the_unix_socket_is_for_its_owner_alone_and_goes_with_the_endpoint(tmp_path: Path) -> None:
    path = tmp_path / "status.sock"
    before = open_descriptors()
    async with unix_endpoint(path):
        mode = os.lstat(path).st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
    assert not os.path.lexists(path)  # noqa: ASYNC240 - a test may block
    assert open_descriptors() <= before + 1


async def test_a_stale_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "status.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with unix_endpoint(path):
        assert (await ask_unix(path, "/healthz"))[1] == "ok\n"
        other = HttpEndpoint(f"unix:{path}", Metrics(), healthy=well, ready=well)
        with pytest.raises(ConfigurationError, match="another program answers"):
            await other.start()
        await other.close()
        assert (await ask_unix(path, "/healthz"))[1] == "ok\n"


@pytest.mark.parametrize("address", ["unix:relative", "unix:/" + "x" * 120])
async def test_a_path_that_is_none_is_told(address: str) -> None:
    with pytest.raises(ConfigurationError):
        await HttpEndpoint(address, Metrics(), healthy=well, ready=well).start()
