"""Running programs: the one place where a child is started, bounded in time and output, and reaped."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakSet

from rds_csi.errors import DeadlineExceeded, Unavailable
from rds_csi.tasks import finish

# Enough for the longest honest output (a list of a thousand volumes); a tool gone mad stops here.
MAX_OUTPUT_BYTES = 4 << 20
# A killed child is reaped within this time, unless it sticks in the kernel (state D).
REAP_SECONDS = 0.5

_CHUNK_BYTES = 1 << 16


# Loops whose children are watched; the watcher is the process's, and a second one would forget the first one's.
_watched: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


@dataclass(frozen=True, slots=True)
class Completed:
    """What a program left behind. ``returncode`` is negative for a signal, as in subprocess."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        """The tool's own last word, for errors: the last line of stderr, else of stdout, else the status."""
        for text in (self.stderr, self.stdout):
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            if lines:
                return lines[-1][:500]
        return f"exit status {self.returncode}"


class Runner(Protocol):
    """Runs programs. Injected wherever a program is needed, so that logic is tested without any."""

    async def run(
        self, *argv: str, timeout: float, input: bytes = b"", env: Mapping[str, str] | None = None
    ) -> Completed:
        """Run ``argv`` and wait for its end, at most ``timeout`` seconds; the exit status is for the caller.

        DeadlineExceeded after the time: the whole process group is killed. Unavailable when the program is
        missing. Cancelled: killed and reaped first.
        """
        ...

    async def run_to_end(self, *argv: str, timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        """Like ``run``, but a cancelled caller waits for the program's end: for what changes data."""
        ...


class ProcessRunner:
    """Runs programs for real: own session and process group, C locale, stdout and stderr apart and bounded."""

    def __init__(self, search_path: str | None = None) -> None:
        """``search_path``: like $PATH; by default the environment's with the sbin directories added."""
        self._path = search_path or ":".join(
            dict.fromkeys([*os.environ.get("PATH", os.defpath).split(":"), "/usr/local/sbin", "/usr/sbin", "/sbin"])
        )

    async def run(
        self, *argv: str, timeout: float, input: bytes = b"", env: Mapping[str, str] | None = None
    ) -> Completed:
        child = _Child()
        self._watch_children(asyncio.get_running_loop())
        try:
            # Cancelled in the middle of a start, asyncio kills the program alone and waits for its children to end.
            await finish(child.start(argv, bool(input), {"PATH": self._path, "LC_ALL": "C", **(env or {})}))
            async with asyncio.timeout(timeout):
                stdout, stderr = await child.communicate(input)
        except TimeoutError:
            await child.end()
            raise DeadlineExceeded(f"{argv[0]} did not end within {timeout:g} s and was killed") from None
        except BaseException:
            await child.end()
            raise
        finally:
            child.close()
        return Completed(argv, child.returncode, stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace"))

    def _watch_children(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have ``loop`` wait for children by pidfd_open(2), as Python itself does from 3.12 on: its older way, a
        thread for each child, costs more than a small program does."""
        if sys.version_info >= (3, 12) or loop in _watched:
            return
        _watched.add(loop)
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError:
            # A sandbox without it: the thread will do.
            return
        watcher = asyncio.PidfdChildWatcher()
        watcher.attach_loop(loop)
        asyncio.set_child_watcher(watcher)

    async def run_to_end(self, *argv: str, timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        return await finish(self.run(*argv, timeout=timeout, env=env))


class _Child:
    """One program that runs, from its start to its end."""

    def __init__(self) -> None:
        self._transport: asyncio.SubprocessTransport | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, argv: Sequence[str], with_input: bool, env: Mapping[str, str]) -> None:
        """As asyncio.create_subprocess_exec does it, which keeps the transport to itself. The child looks for the
        program on the $PATH of ``env``."""
        loop = asyncio.get_running_loop()
        try:
            self._transport, protocol = await loop.subprocess_exec(
                lambda: asyncio.subprocess.SubprocessStreamProtocol(limit=_CHUNK_BYTES, loop=loop),
                *argv,
                stdin=asyncio.subprocess.PIPE if with_input else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **env},
                start_new_session=True,
            )
        except OSError as error:
            # One that lacks its interpreter is not found either. Looked for only now: the search is a good part of
            # what a short program costs.
            if shutil.which(argv[0], path=env["PATH"]) is None:
                remedy = f"Install the package that has {argv[0]}."
                raise Unavailable(f"{argv[0]} is not installed", remedy=remedy) from error
            raise Unavailable(f"{argv[0]} cannot be started: {error.strerror}") from error
        self._process = asyncio.subprocess.Process(self._transport, protocol, loop)

    async def communicate(self, input: bytes) -> tuple[bytes, bytes]:
        """Feed it, and wait for its end: the beginnings of stdout and stderr."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        assert process.stderr is not None
        _, stdout, stderr, _ = await asyncio.gather(
            _feed(process, input), _read_bounded(process.stdout), _read_bounded(process.stderr), process.wait()
        )
        return stdout, stderr

    @property
    def returncode(self) -> int:
        """Of a program that has ended."""
        assert self._process is not None
        assert self._process.returncode is not None
        return self._process.returncode

    async def end(self) -> None:
        """Kill the whole process group and reap the child; one that sticks in the kernel is left to init."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REAP_SECONDS):
                await self._process.wait()

    def close(self) -> None:
        """Close our ends of the pipes: a descendant in a session of its own may hold the others for ever."""
        if self._transport is not None:
            self._transport.close()


async def _feed(process: asyncio.subprocess.Process, input: bytes) -> None:
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(input)
            await process.stdin.drain()
        process.stdin.close()


async def _read_bounded(stream: asyncio.StreamReader) -> bytes:
    """Read to the end, so that the child never blocks on a full pipe, but keep only the first bytes."""
    kept = bytearray()
    while chunk := await stream.read(_CHUNK_BYTES):
        kept += chunk[: MAX_OUTPUT_BYTES - len(kept)]
    return bytes(kept)
