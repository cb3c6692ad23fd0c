"""A real ``rds-csi simulate`` process for tests: started, asked what it has, stopped; and the URLs of its array."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

# Far above what a start takes on a loaded machine, inside an emulated one too.
START_SECONDS = 90.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.02
# The control endpoint answers from memory.
CONTROL_SECONDS = 30.0
# What the process prints last when it is ready.
READY = "Stop it with Ctrl-C."

_URL = re.compile(r"--array '(routeros\+\w+)(://\S+)'")
_CONTROL = re.compile(r"http://127\.0\.0\.1:\d+")


class Simulated:
    """The process as a context manager; the device's files lie in ``directory``/device, what it prints in
    ``directory``/simulator.log.

    ``flags`` are those of ``rds-csi simulate``; the servers take any free ports.
    """

    def __init__(self, directory: Path, *flags: str) -> None:
        self.directory = directory / "device"
        self.log = directory / "simulator.log"
        self._argv = [
            *(sys.executable, "-m", "rds_csi", "simulate"),
            *("--ssh", "127.0.0.1:0", "--https", "127.0.0.1:0", "--control", "127.0.0.1:0"),
            *("--directory", str(self.directory)),
            *flags,
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._urls: dict[str, str] = {}
        self._control = ""

    def url(self, transport: str, **query: str) -> str:
        """The array's URL over ``ssh`` or ``https``, with the keys of ``query`` ("_" for "-") added or replaced."""
        parts = urlsplit(self._urls[f"routeros+{transport}"])
        keys = {**dict(parse_qsl(parts.query)), **{name.replace("_", "-"): value for name, value in query.items()}}
        return urlunsplit(parts._replace(query=urlencode(keys, safe="/:,")))

    def rows(self, menu: str) -> list[dict[str, Any]]:
        """The items of a menu as the device has them: ``/disk``, ``/file``…"""
        found: list[dict[str, Any]] = self._ask(f"/state?menu={menu}")[menu]
        return found

    def counters(self) -> dict[str, int]:
        """What was asked of the servers since the start."""
        counted: dict[str, int] = self._ask("/counters")
        return counted

    def belongings(self) -> dict[str, str]:
        """Every disk and subvolume with its properties, and every real file in the pools with its bytes' sha256."""
        # Directories stay, the driver's base among them: each has taken an inode.
        disks = [{key: value for key, value in row.items() if key != "free-inodes"} for row in self.rows("/disk")]
        subvolumes = self.rows("/disk/btrfs/subvolume")
        pools = self.directory / "pools"
        return {
            **{f"disk {disk['slot'] or disk['slot-default']}": json.dumps(disk, sort_keys=True) for disk in disks},
            **{f"subvolume {each['.id']}": json.dumps(each, sort_keys=True) for each in subvolumes},
            **{f"file {path.relative_to(pools)}": _digest(path) for path in pools.rglob("*") if path.is_file()},
        }

    def text(self) -> str:
        """The end of its output."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-20_000:]

    def _ask(self, path: str) -> Any:
        # Whatever proxy the environment names: it is not on the way to this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self._control + path, timeout=CONTROL_SECONDS) as reply:
            return json.load(reply)

    def _start(self) -> None:
        self.directory.mkdir()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        begun = time.monotonic()
        while READY not in (text := self.text()):
            if self._process.poll() is not None:
                raise AssertionError(f"rds-csi simulate ended with {self._process.returncode}:\n{text}")
            if time.monotonic() - begun > START_SECONDS:
                raise AssertionError(f"rds-csi simulate was not ready within {START_SECONDS} s:\n{text}")
            time.sleep(POLL_SECONDS)
        self._urls = {match[1]: match[1] + match[2] for match in _URL.finditer(text)}
        control = _CONTROL.search(text)
        assert control is not None, text
        self._control = control[0]

    def _stop(self) -> int:
        """SIGTERM, and the exit status; one that does not end is killed."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait(STOP_SECONDS)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            if self._process is not None:
                self._process.kill()
                self._process.wait(STOP_SECONDS)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        status = self._stop()
        if kind is not None:
            print(self.text(), file=sys.stderr)
        else:
            assert status == os.EX_OK, f"SIGTERM ended rds-csi simulate with {status}:\n{self.text()}"


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
