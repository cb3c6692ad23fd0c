"""Containers of the image as a kubelet would start them, by runc: with a root directory that nobody can write to."""

import asyncio
import json
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.image.archive import Archive
from tests.image.capabilities import own_capabilities
from tests.support.driver import probe
from tests.support.waiting import wait_until

STATE = "/run/rds-csi-lane"
# From the signal to the end: the driver's own grace period and some more.
STOP_SECONDS = 60.0
COMMAND_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Place:
    """How a container is shut in."""

    user: int
    capabilities: Sequence[str] = ()
    mounts: Sequence[Mapping[str, Any]] = ()
    namespaces: Sequence[str] = ("mount", "pid", "ipc", "uts")
    devices: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


def controller_place(socket: Path) -> Place:
    """The chart's controller: no root, no capability; a directory for the socket."""
    return Place(65532, mounts=(*_devices(), tmpfs("/tmp"), bind(socket, "/csi")))


def node_place(shared: Path, *, own_processes: bool = False) -> Place:
    """The chart's node: privileged, the host's devices, processes and network, one directory in both worlds.

    ``own_processes``: a PID namespace of its own, without which it is not the first process.
    """
    namespaces = ("mount", "pid") if own_processes else ("mount",)
    mounts = (
        {"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind", "rw"]},
        bind(Path("/sys"), "/sys", "rbind"),
        tmpfs("/tmp"),
        # Bidirectional: what is mounted below is seen by the host.
        bind(shared, str(shared), "rbind", "rshared"),
    )
    return Place(0, own_capabilities(), mounts, namespaces, devices=True)


def bind(source: Path, target: str, *options: str) -> dict[str, Any]:
    """A directory of the host, to read and write."""
    return {"destination": target, "type": "bind", "source": str(source), "options": [*(options or ["bind"]), "rw"]}


def tmpfs(target: str) -> dict[str, Any]:
    """A directory in memory."""
    return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777", "size=64m"]}


class Container:
    """One container, as the image says it, with arguments of its own; its output goes to ``log``."""

    def __init__(
        self, image: Archive, root: Path, log: Path, place: Place, *arguments: str, entrypoint: Sequence[str] = ()
    ) -> None:
        """``root``: where the image is unpacked. ``entrypoint``: a program to run instead of the image's."""
        self.log = log
        self._name = f"rds-csi-{uuid.uuid4().hex[:12]}"
        self._bundle = tempfile.TemporaryDirectory(prefix="rds-csi-bundle-")
        settings = image.container
        words = [*(entrypoint or settings["Entrypoint"]), *(arguments or (() if entrypoint else settings["Cmd"]))]
        environment = [*settings["Env"], *(f"{key}={value}" for key, value in place.environment.items())]
        config = _configuration(root, place, self._name, words, environment)
        Path(self._bundle.name, "config.json").write_text(json.dumps(config))
        self._runc: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when its first process runs."""
        with self.log.open("ab") as log:
            words = _runc("run", "--bundle", self._bundle.name, self._name)
            self._runc = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: self._runc is not None and (self._runc.poll() is not None or self.pid > 0), "it runs")

    def wait(self, seconds: float = COMMAND_SECONDS) -> int:
        """Its exit status."""
        assert self._runc is not None
        return self._runc.wait(seconds)

    def terminate(self) -> int:
        """SIGTERM to its first process, as the kubelet does it, and the exit status."""
        self.send(signal.SIGTERM)
        return self.wait(STOP_SECONDS)

    def send(self, number: signal.Signals) -> None:
        """A signal to its first process."""
        subprocess.run(_runc("kill", self._name, str(number.value)), check=True, timeout=COMMAND_SECONDS)

    def run(self, *words: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
        """A program inside, beside the first process (a kubelet's exec)."""
        chosen = [] if user is None else ["--user", f"{user}:{user}"]
        return subprocess.run(
            _runc("exec", *chosen, self._name, *words), capture_output=True, text=True, timeout=COMMAND_SECONDS
        )

    @property
    def pid(self) -> int:
        """The host's number of its first process; 0 before it runs and after its end."""
        words = _runc("state", self._name)
        said = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_SECONDS)
        state: dict[str, Any] = json.loads(said.stdout) if said.returncode == 0 else {}
        return int(state["pid"]) if state.get("status") == "running" else 0

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._runc is not None and self._runc.poll() is None

    def answers(self, socket: Path) -> bool:
        """Whether the server is ready; ``socket`` is the host's path. AssertionError when the container has ended."""
        assert self.running, self.text()
        return asyncio.run(probe(socket))

    def text(self) -> str:
        """The end of what it said."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-20_000:]

    def close(self) -> None:
        """Remove it, running or not."""
        words = _runc("delete", "--force", self._name)
        subprocess.run(words, capture_output=True, timeout=COMMAND_SECONDS)
        if self._runc is not None:
            self._runc.wait(STOP_SECONDS)
        self._bundle.cleanup()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        if kind is not None:
            print(self.text())


def _runc(*words: str) -> list[str]:
    return ["runc", "--root", STATE, *words]


def _configuration(
    root: Path, place: Place, name: str, words: Sequence[str], environment: Sequence[str]
) -> dict[str, Any]:
    """config.json of the OCI runtime specification."""
    sets = ("bounding", "effective", "inheritable", "permitted", "ambient")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": place.user, "gid": place.user},
            "args": list(words),
            "env": list(environment),
            "cwd": "/",
            "capabilities": {kind: list(place.capabilities) for kind in sets},
            "noNewPrivileges": not place.capabilities,
        },
        "root": {"path": str(root), "readonly": True},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, *place.mounts],
        "linux": {
            "cgroupsPath": f"/{name}",
            "namespaces": [{"type": kind} for kind in place.namespaces],
            "rootfsPropagation": "rshared" if place.devices else "rslave",
            "resources": {"devices": [{"allow": place.devices, "access": "rwm"}]},
        },
    }


def _devices() -> tuple[dict[str, Any], ...]:
    return (
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
        {"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "ro"]},
    )
