"""Log lines: set up once, text for people or JSON for machines; writing one never blocks the event loop."""

import contextlib
import json
import logging
import queue
import re
import sys
import threading
import time
from contextvars import ContextVar
from typing import TextIO

# The id of the RPC that the running task works for; in every line, so that the lines of one call are found.
request_id: ContextVar[str] = ContextVar("request_id", default="")

ROOT = "rds_csi"

# Lines waiting for a reader of stderr that is slow or stuck; more than these are dropped and counted.
_QUEUED_LINES = 10_000
# How long the end of the process waits for lines that are not written yet.
_FLUSH_SECONDS = 1.0

_PLAIN = re.compile(r"[^\s\"=\x00-\x1f\x7f-\x9f]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def log(logger: logging.Logger, level: int, message: str, /, **fields: object) -> None:
    """Log ``message`` with ``fields`` as key=value; nothing is formatted when ``level`` is off."""
    if logger.isEnabledFor(level):
        logger.log(level, message, extra={"fields": fields}, stacklevel=2)


def configure(*, level: str, as_json: bool, stream: TextIO | None = None) -> logging.Handler:
    """Send the driver's lines from ``level`` ("debug", "info", "warning", "error") on to ``stream`` (stderr).

    Other libraries are heard from "warning" on: their debug lines would show headers and payloads. Calling it
    again replaces the earlier set-up. The handler is returned for who has to ``close`` it before the end.
    """
    handler = _QueuedHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if as_json else _TextFormatter())
    root = logging.getLogger()
    for earlier in [item for item in root.handlers if isinstance(item, _QueuedHandler)]:
        root.removeHandler(earlier)
        earlier.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(level.upper())
    return handler


def single_line(text: str) -> str:
    """``text`` with every control character and line separator written as an escape."""
    return _CONTROL.sub(lambda match: ascii(match.group())[1:-1], text)


def _fields_of(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = dict(getattr(record, "fields", {}))
    current = request_id.get()
    if current:
        fields["request_id"] = current
    return fields


def _moment(record: logging.LogRecord) -> str:
    """RFC 3339 with milliseconds, in UTC: the same form on every node."""
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


def _trace(record: logging.LogRecord, formatter: logging.Formatter) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""


class _TextFormatter(logging.Formatter):
    """``2026-01-02T03:04:05.678Z INFO    rds_csi.rpc: message key=value``, then an indented traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields_of(record)
        traceback = str(fields.pop("traceback", "")) or _trace(record, self)
        parts = [f"{_moment(record)} {record.levelname:<7} {record.name}: {single_line(record.getMessage())}"]
        parts += [f"{key}={_value(value)}" for key, value in fields.items()]
        lines = [" ".join(parts), *(f"  {single_line(line)}" for line in traceback.split("\n") if line)]
        return "\n".join(lines)


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the fields, and ``traceback`` if any."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields_of(record),
        }
        traceback = _trace(record, self)
        if traceback:
            line["traceback"] = traceback
        return json.dumps(line, default=str)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(single_line(text), ensure_ascii=False)


class _QueuedHandler(logging.Handler):
    """Hands lines to a thread of its own: a log reader that stands still must not stop the driver."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str | threading.Event | None] = queue.Queue(_QUEUED_LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def flush(self) -> None:
        """Wait until the lines so far are written, at most a second."""
        done = threading.Event()
        with contextlib.suppress(queue.Full):
            self._lines.put(done, timeout=_FLUSH_SECONDS)
            if self._thread.is_alive():
                done.wait(_FLUSH_SECONDS)

    def close(self) -> None:
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._lines.put(None, timeout=_FLUSH_SECONDS)
            self._thread.join(_FLUSH_SECONDS)
        super().close()

    def _write(self) -> None:
        while (item := self._lines.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            if self._dropped:
                item = f"{item}\n({self._dropped} log lines were dropped: their reader is too slow)"
                self._dropped = 0
            # A reader that is gone (EPIPE) is no reason to end.
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(item + "\n")
                self._stream.flush()
