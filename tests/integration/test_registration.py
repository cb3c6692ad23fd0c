"""A real server registers with a kubelet, and its health is what a caller of its socket would find."""

import asyncio
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.certificates import write_certificate
from tests.support.driver import Driver
from tests.support.kubelet import CALL_SECONDS, Kubelet, Plugin
from tests.support.waiting import wait_until

NAME = "rds.csi.example.org"
SOCKET = f"{NAME}-reg.sock"


class Bench:
    """A node's driver that is not started, and the kubelet that it registers with."""

    def __init__(self, home: Path) -> None:
        self.home = home
        directory = home / "plugins_registry"
        directory.mkdir()
        self.kubelet = Kubelet(directory)
        self.socket = directory / SOCKET
        self.port = free_port()

    def driver(self, *flags: str) -> Driver:
        """The node plugin with ``flags`` beside those of every test."""
        return Driver(
            self.home,
            *("--connector", "memory", "--node-id", "node-1", "--driver-name", NAME),
            *("--kubelet-registration-dir", str(self.kubelet.directory)),
            *("--http-endpoint", f"127.0.0.1:{self.port}"),
            *flags,
            role="node",
        )

    def plugin(self) -> Plugin | None:
        """What the kubelet has taken, after one more look."""
        asyncio.run(self.kubelet.look())
        return self.kubelet.plugins.get(SOCKET)

    def get(self, path: str, *, cert: Path | None = None, token: str = "") -> tuple[int, str]:
        """Status and body of the HTTP endpoint's answer; over TLS with the certificate that is expected."""
        scheme = "https" if cert else "http"
        request = urllib.request.Request(f"{scheme}://127.0.0.1:{self.port}{path}")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        context = ssl.create_default_context(cafile=str(cert)) if cert else None
        try:
            with urllib.request.urlopen(request, timeout=CALL_SECONDS, context=context) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def bench(home: Path) -> Bench:
    return Bench(home)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_the_kubelet_takes_the_node_which_is_ready_only_then(bench: Bench) -> None:
    with bench.driver() as driver:
        wait_until(bench.socket.exists, "the registration socket is there")
        assert bench.get("/healthz") == (200, "ok\n")
        assert bench.get("/readyz") == (503, "the kubelet has not registered the driver yet\n")
        plugin = bench.plugin()
        assert plugin is not None
        assert plugin.name == NAME
        assert plugin.endpoint == str(driver.socket)
        assert plugin.node_id.startswith("node-1")
        assert bench.get("/readyz") == (200, "ok\n")
    assert not bench.socket.exists()
    assert bench.plugin() is None


def test_a_refusal_is_seen_in_the_kubelets_words(bench: Bench) -> None:
    with bench.driver():
        wait_until(bench.socket.exists, "the registration socket is there")
        bench.kubelet.refusal = "node-1 is not known"
        bench.plugin()
        assert bench.get("/readyz") == (503, "the kubelet refused the registration: node-1 is not known\n")
        bench.kubelet.refusal = ""
        assert bench.plugin() is not None
        assert bench.get("/readyz") == (200, "ok\n")


def test_a_killed_node_registers_again_over_its_stale_socket(bench: Bench) -> None:
    driver = bench.driver()
    driver.start()
    wait_until(bench.socket.exists, "the registration socket is there")
    first = bench.plugin()
    stale = bench.socket.lstat()
    driver.kill()
    assert bench.socket.exists()
    with driver:
        wait_until(lambda: bench.socket.lstat().st_ctime_ns != stale.st_ctime_ns, "the stale socket is replaced")
        assert first == bench.plugin() is not None
        assert bench.get("/readyz") == (200, "ok\n")


def test_in_a_directory_that_was_emptied_the_node_registers_again(bench: Bench) -> None:
    with bench.driver():
        wait_until(bench.socket.exists, "the registration socket is there")
        bench.plugin()
        bench.socket.unlink()
        assert bench.plugin() is None
        wait_until(bench.socket.exists, "the registration socket is there again")
        assert bench.plugin() is not None
        assert bench.get("/readyz") == (200, "ok\n")


def test_a_restarted_kubelet_finds_the_node(bench: Bench) -> None:
    with bench.driver():
        wait_until(bench.socket.exists, "the registration socket is there")
        first = bench.plugin()
        bench.kubelet.restart()
        assert first == bench.plugin() is not None


def test_a_csi_socket_that_is_gone_makes_the_node_unhealthy(bench: Bench) -> None:
    with bench.driver() as driver:
        assert bench.get("/healthz") == (200, "ok\n")
        driver.socket.unlink()
        assert bench.get("/healthz") == (503, "the CSI socket does not answer: No such file or directory\n")


def test_metrics_over_tls_with_a_token(bench: Bench) -> None:
    cert, key = write_certificate(bench.home)
    token = bench.home / "token"
    token.write_text("s3cret\n")
    flags = ("--http-tls-cert", str(cert), "--http-tls-key", str(key), "--http-token-file", str(token))
    with bench.driver(*flags) as driver:
        assert bench.get("/healthz", cert=cert) == (200, "ok\n")
        assert bench.get("/metrics", cert=cert)[0] == 401
        status, text = bench.get("/metrics", cert=cert, token="s3cret")
        assert (status, "rds_csi_build_info" in text) == (200, True)
        renewed, _ = write_certificate(bench.home)
        assert bench.get("/healthz", cert=renewed) == (200, "ok\n")
    assert "s3cret" not in driver.text()


def test_a_wrong_directory_is_told_at_start(bench: Bench) -> None:
    bench.kubelet.directory.rmdir()
    driver = bench.driver()
    with pytest.raises(AssertionError, match=r"ended with 2:[\s\S]*plugins_registry is no directory"):
        driver.start()
    assert not driver.running
    assert not driver.socket.exists()
