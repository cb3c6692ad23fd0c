"""One command on one SSH channel: its output, and exactly how far it came when something fails."""

import asyncio
from collections.abc import Callable

import asyncssh


class CommandSession(asyncssh.SSHClientSession[bytes]):
    """What arrives on the channel of one command.

    ``sent``: the exec request was handed to the connection; until then nothing can have been done. ``ended``
    is set when nothing more comes; ``complete`` says whether the device itself ended the output.
    """

    def __init__(self, limit: int, on_open: Callable[[], None]) -> None:
        self.sent = False
        self.ended = asyncio.Event()
        self.exit_status: int | None = None
        self.too_long = False
        self._limit = limit
        self._on_open = on_open
        self._eof = False
        self._size = 0
        self._output: list[bytes] = []
        self._errors: list[bytes] = []
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None

    @property
    def complete(self) -> bool:
        """Whether the device said that the output is whole: end of file or an exit status."""
        return self._eof or self.exit_status is not None

    @property
    def stdout(self) -> str:
        """The output with plain line ends. A foreign item's comment may be in any encoding."""
        return _text(self._output)

    @property
    def stderr(self) -> str:
        """What came on the other stream; RouterOS is not known to use it."""
        return _text(self._errors)

    def abort(self) -> None:
        """Give the channel up: what still comes is thrown away."""
        if self._channel is not None:
            self._channel.abort()

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan
        # asyncssh writes the exec request next, without another wait, unless the channel is gone already.
        self.sent = not chan.is_closing()
        self._on_open()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._size += len(data)
        if self._size > self._limit:
            self.too_long = True
            self._output.clear()
            self.abort()
            self.ended.set()
            return
        (self._errors if datatype == asyncssh.EXTENDED_DATA_STDERR else self._output).append(data)

    def eof_received(self) -> bool:
        self._eof = True
        # False: the channel is closed from this side as well.
        return False

    def exit_status_received(self, status: int) -> None:
        self.exit_status = status

    def connection_lost(self, _exc: Exception | None) -> None:
        self.ended.set()


def _text(pieces: list[bytes]) -> str:
    return b"".join(pieces).decode("utf-8", "replace").replace("\r\n", "\n")
