"""TLS and the bearer token of the HTTP endpoint: what is wrong is told at start, what is replaced is taken up."""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rds_csi.errors import ConfigurationError
from rds_csi.metrics import Metrics
from rds_csi.rpc.http import HttpEndpoint
from rds_csi.rpc.http_files import FromFiles
from rds_csi.rpc.http_tls import open_tls
from rds_csi.rpc.http_token import open_token
from tests.support.certificates import write_certificate
from tests.support.rpc import eventually, open_descriptors


async def well() -> str:
    return ""


@asynccontextmanager
async def endpoint(*, cert: Path | str = "", key: Path | str = "", token: Path | str = "") -> AsyncIterator[int]:
    """The port of an endpoint with these files."""
    tls, bearer = open_tls(str(cert), str(key)), open_token(str(token))
    http = HttpEndpoint("127.0.0.1:0", Metrics(), healthy=well, ready=well, tls=tls, token=bearer)
    await http.start()
    try:
        yield http.port
    finally:
        await http.close()


async def get(port: int, path: str, *headers: str, trusted: Path | None = None) -> tuple[int, str]:
    """Status and head of the answer; over TLS when ``trusted`` is the certificate that is expected."""
    context = ssl.create_default_context(cafile=str(trusted)) if trusted else None
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write("\r\n".join([f"GET {path} HTTP/1.1", *headers, "", ""]).encode("latin-1"))
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    head = answer.partition("\r\n\r\n")[0]
    return int(head.split(" ")[1]), head


async def status(port: int, path: str, *headers: str, trusted: Path | None = None) -> int:
    return (await get(port, path, *headers, trusted=trusted))[0]


# --- TLS -------------------------------------------------------------------------------------------------------------


async def test_everything_is_served_over_tls_and_nothing_without(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    async with endpoint(cert=cert, key=key) as port:
        for path in ("/metrics", "/healthz", "/readyz"):
            assert await status(port, path, trusted=cert) == 200
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
        # What comes is an alert of TLS, if anything.
        assert b"HTTP" not in await reader.read()
        writer.close()


async def test_many_connections_at_once_are_all_secured(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    async with endpoint(cert=cert, key=key) as port:
        for _ in range(5):
            assert await asyncio.gather(*(status(port, "/healthz", trusted=cert) for _ in range(10))) == [200] * 10


async def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    context = open_tls(str(cert), str(key))
    assert context is not None
    assert context.get().minimum_version is ssl.TLSVersion.TLSv1_2


async def test_a_renewed_certificate_is_for_new_connections(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cert, key = write_certificate(tmp_path)
    old = cert.rename(tmp_path / "old.crt")
    old_key = key.rename(tmp_path / "old.key")
    cert.write_bytes(old.read_bytes())
    key.write_bytes(old_key.read_bytes())
    async with endpoint(cert=cert, key=key) as port:
        open_reader, open_writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=ssl.create_default_context(cafile=str(old))
        )
        new, _ = write_certificate(tmp_path)
        with caplog.at_level(logging.INFO):
            assert await status(port, "/healthz", trusted=new) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            await get(port, "/healthz", trusted=old)
        # One that was there before goes on.
        open_writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert (await open_reader.read()).startswith(b"HTTP/1.1 200")
        open_writer.close()
        await open_writer.wait_closed()
    assert [record.getMessage() for record in caplog.records] == ["changed files were read again"]


@pytest.mark.parametrize("damage", ["other key", "garbage", "missing"])
async def test_a_broken_renewal_keeps_the_old_pair_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    cert, key = write_certificate(tmp_path)
    trusted = tmp_path / "trusted.crt"
    trusted.write_bytes(cert.read_bytes())
    async with endpoint(cert=cert, key=key) as port:
        if damage == "missing":
            key.unlink()
        else:
            other = write_certificate(tmp_path, "other")[1].read_bytes()
            key.write_bytes(other if damage == "other key" else b"no PEM at all")
        for _ in range(3):
            assert await status(port, "/healthz", trusted=trusted) == 200
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        repaired, _ = write_certificate(tmp_path)
        assert await status(port, "/healthz", trusted=repaired) == 200


async def test_clients_that_begin_no_handshake_are_bounded_and_leave_nothing(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    before = open_descriptors()
    async with endpoint(cert=cert, key=key) as port:
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
        await eventually(lambda: open_descriptors() <= before + 40 + 16 + 1, "at most sixteen are kept")
        assert await status(port, "/healthz", trusted=cert) == 200, "they keep no probe out"
        for _, writer in connections:
            writer.close()
        await eventually(lambda: open_descriptors() <= before + 1, "only the listening socket is left")
        assert await status(port, "/healthz", trusted=cert) == 200


async def test_a_client_that_leaves_in_the_handshake_does_no_harm(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    async with endpoint(cert=cert, key=key) as port:
        for rubbish in (b"", b"\x16\x03\x01", b"\x16\x03\x01\xff\xff" + b"x" * 9000):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(rubbish)
        assert await status(port, "/healthz", trusted=cert) == 200


async def test_close_ends_handshakes_that_hang(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    before = open_descriptors()
    async with endpoint(cert=cert, key=key) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await eventually(lambda: open_descriptors() >= before + 3, "the connection is accepted")
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize(("cert", "key", "missing"), [("c", "", "--http-tls-key"), ("", "k", "--http-tls-cert")])
def test_half_a_pair_is_refused(cert: str, key: str, missing: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{missing} is missing"):
        open_tls(cert, key)


def test_neither_is_plain_http() -> None:
    assert open_tls("", "") is None


def test_a_pair_that_cannot_be_used_is_told_at_start(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    _, other_key = write_certificate(tmp_path, "other")
    for one, two in [(cert, other_key), (tmp_path / "none", key), (key, cert)]:
        with pytest.raises(ConfigurationError, match=r"cannot be used: .*--http-tls-cert") as caught:
            open_tls(str(one), str(two))
        assert "\n" not in str(caught.value)


# --- token -----------------------------------------------------------------------------------------------------------

TOKEN = "s3cr.et-T0ken~+/="


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


async def test_metrics_need_the_token_and_probes_do_not(token_file: Path) -> None:
    async with endpoint(token=token_file) as port:
        assert await status(port, "/healthz") == 200
        assert await status(port, "/readyz") == 200
        code, head = await get(port, "/metrics")
        assert code == 401
        assert 'WWW-Authenticate: Bearer realm="rds-csi"' in head.split("\r\n")
        assert await status(port, "/metrics", "Host: x", f"Authorization: Bearer {TOKEN}") == 200
        assert await status(port, "/metrics", f"authorization:bearer  {TOKEN} ") == 200


@pytest.mark.parametrize(
    "headers",
    [
        ["Authorization: Bearer"],
        ["Authorization: Bearer "],
        ["Authorization: Bearer wrong"],
        [f"Authorization: Bearer {TOKEN}x"],
        [f"Authorization: Bearer {TOKEN[:-1]}"],
        [f"Authorization: Basic {TOKEN}"],
        [f"Authorization: {TOKEN}"],
        [f"X-Authorization: Bearer {TOKEN}"],
        ["Authorization: Bearer \xff\xfe"],
        # Two of them: which one another reader on the way took for good is not known.
        [f"Authorization: Bearer {TOKEN}", "Authorization: Bearer wrong"],
    ],
)
async def test_anything_else_is_no_token(token_file: Path, headers: list[str]) -> None:
    async with endpoint(token=token_file) as port:
        assert await status(port, "/metrics", *headers) == 401


async def test_what_is_not_there_is_not_told_without_the_token(token_file: Path) -> None:
    async with endpoint(token=token_file) as port:
        assert await status(port, "/nope") == 401
        assert await status(port, "/nope", f"Authorization: Bearer {TOKEN}") == 404


async def test_a_replaced_token_is_asked_for_at_once(token_file: Path) -> None:
    async with endpoint(token=token_file) as port:
        token_file.write_text("next-one")  # noqa: ASYNC240 - a test may block
        assert await status(port, "/metrics", f"Authorization: Bearer {TOKEN}") == 401
        assert await status(port, "/metrics", "Authorization: Bearer next-one") == 200


async def test_a_token_that_was_emptied_stays_and_is_never_logged(
    token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with endpoint(token=token_file) as port:
            for content in ("", "two words-of-a-secret"):
                token_file.write_text(content)  # noqa: ASYNC240 - a test may block
                assert await status(port, "/metrics", f"Authorization: Bearer {TOKEN}") == 200
                assert await status(port, "/metrics", "Authorization: Bearer ") == 401
    told = [record.__dict__ for record in caplog.records if record.levelname == "ERROR"]
    assert len(told) == 2
    assert TOKEN not in str(told)
    assert "secret" not in str([record["fields"] for record in told])


def test_files_whose_rights_come_later_are_read_then(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "token"
    path.write_text("old")
    is_refused = False

    def read() -> str:
        if is_refused:
            raise ConfigurationError(f"{path} cannot be read: Permission denied")
        return path.read_text()

    value = FromFiles((str(path),), read)
    path.write_text("renewed")
    is_refused = True
    assert [value.get() for _ in range(3)] == ["old"] * 3
    # By chmod(2), which changes nothing of the file itself.
    is_refused = False
    assert value.get() == "renewed"
    assert [record.levelname for record in caplog.records].count("ERROR") == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"two words", "holds no bearer token"),
        (b"line\nline", "holds no bearer token"),
        (b"\xff", "holds no bearer token"),
        (b"x" * 5000, "holds no bearer token"),
    ],
)
def test_a_file_without_a_token_is_told_at_start(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"{sentence}.*RFC 6750"):
        open_token(str(path))


def test_no_file_is_no_token() -> None:
    assert open_token("") is None
