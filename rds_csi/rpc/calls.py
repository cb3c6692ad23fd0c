"""One call from its headers to its status: the chain of id, deadline, metrics, access log and status code."""

import asyncio
import itertools
import logging
import secrets
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum

import betterproto
from grpclib.const import Status
from grpclib.protocol import Stream
from h2.exceptions import H2Error

from rds_csi import logging as log_lines
from rds_csi.deadline import set_deadline
from rds_csi.errors import DeadlineExceeded, Unavailable
from rds_csi.progress import Progress, begin
from rds_csi.rpc.decode import decode
from rds_csi.rpc.encode import encode
from rds_csi.rpc.limits import Limits
from rds_csi.rpc.methods import Method
from rds_csi.rpc.notices import notice_of
from rds_csi.rpc.redact import describe, scrub, secret_values
from rds_csi.rpc.status import OK, Outcome, clean_text, outcome_of
from rds_csi.rpc.wire import CONTENT_TYPE, Reply, receive_request, timeout_of

logger = logging.getLogger("rds_csi.rpc")

# Tells the requests of one process from those of the next, which counts from 1 again.
_ID_PREFIX = secrets.token_hex(3)
_numbers = itertools.count(1)

# How a failed call is logged; the others tell what a caller did wrong or will do again.
_LEVELS = {
    Status.INTERNAL: logging.ERROR,
    Status.UNKNOWN: logging.ERROR,
    Status.UNAVAILABLE: logging.WARNING,
    Status.DEADLINE_EXCEEDED: logging.WARNING,
    Status.RESOURCE_EXHAUSTED: logging.WARNING,
}

_REFUSED = "the driver is shutting down; ask again"


class Cause(Enum):
    """Why a call was stopped before its own end."""

    GONE = Outcome(Status.CANCELLED, "the client has gone")
    EXPIRED = Outcome(Status.DEADLINE_EXCEEDED, "the caller's deadline came before the end of the call")
    STALLED = Outcome(Status.DEADLINE_EXCEEDED, "the rest of the request did not come in time")
    SHUTDOWN = Outcome(Status.UNAVAILABLE, "the driver has shut down before the end of the call; ask again")


class Phase(Enum):
    """What a call waits for."""

    RECEIVING = "receiving"
    RUNNING = "running"
    SENDING = "sending"


class Call:
    """A call on its own task. Whoever stops it tells the cause; it is cancelled once, not in its unwinding."""

    def __init__(self, stream: Stream, method: Method, headers: Mapping[str, str], limits: Limits) -> None:
        self.method = method
        self.phase = Phase.RECEIVING
        self._stream = stream
        self._reply = Reply(stream)
        self._headers = headers
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._began = self._since = self._loop.time()
        self._report_after = limits.slow_call_seconds
        self._id = f"{_ID_PREFIX}-{next(_numbers)}"
        self._request: betterproto.Message | None = None
        self._response = b""
        self._progress: Progress | None = None
        self._cause: Cause | None = None
        self._gone = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, done: Callable[["Call"], None], *, refused: bool) -> None:
        """Run on a task of its own; ``done`` is called after the end, even of a task that never began."""
        self._task = self._loop.create_task(self._run(refused))
        self._task.add_done_callback(lambda _: done(self))

    @property
    def task(self) -> asyncio.Task[None]:
        """The task; there is one after ``start``."""
        assert self._task is not None
        return self._task

    def stop(self, cause: Cause) -> None:
        """Cancel the call, unless it is unwinding already; a client that has gone gets no answer."""
        if cause is Cause.GONE:
            self._gone = True
        if self._cause is None or self.phase is Phase.SENDING:
            self._cause = self._cause or cause
            self.task.cancel()

    def look(self, now: float) -> None:
        """Stop a call whose client neither sends nor reads; tell of one that runs for long."""
        if self.phase is not Phase.RUNNING:
            if now - self._since > self._limits.transfer_seconds:
                self.stop(Cause.STALLED if self.phase is Phase.RECEIVING else Cause.GONE)
            return
        elapsed = now - self._began
        if elapsed >= self._report_after:
            self._report_after = elapsed * 2
            log_lines.log(
                logger,
                logging.WARNING,
                "call still running",
                method=self.method.name,
                **self._subject(),
                seconds=round(elapsed, 1),
                request_id=self._id,
                **({"at": at} if self._progress and (at := self._progress.describe()) else {}),
                **({"stopped": self._cause.name.lower()} if self._cause else {}),
            )

    async def recv_message(self) -> betterproto.Message:
        """The request (for betterproto's generated method)."""
        assert self._request is not None
        return self._request

    async def send_message(self, message: betterproto.Message) -> None:
        """Keep the response until the method has ended well, or send it at once when it is one of many."""
        if self.method.streaming:
            await self._reply.send(encode(message))
        else:
            self._response = encode(message)

    async def _run(self, refused: bool) -> None:
        log_lines.request_id.set(self._id)
        method = self.method
        self._progress = begin(method.name)
        method.in_flight.inc()
        try:
            outcome = await self._outcome(refused)
            self._enter(Phase.SENDING)
            await self._answer(outcome)
        finally:
            method.in_flight.dec()
            if self._timer is not None:
                self._timer.cancel()
        seconds = self._loop.time() - self._began
        method.observe(outcome.code, seconds)
        self._log_end(outcome, seconds)

    async def _outcome(self, refused: bool) -> Outcome:
        try:
            if refused:
                raise Unavailable(_REFUSED)
            self._arm()
            data = await receive_request(self._stream, self._limits.request_bytes)
            request = self._request = decode(self.method.request_type, data)
            self._enter(Phase.RUNNING)
            if logger.isEnabledFor(logging.DEBUG):
                log_lines.log(logger, logging.DEBUG, "call", method=self.method.name, request=describe(request))
            await self.method.function(self)
        except asyncio.CancelledError:
            if self._cause is None:
                # Not stopped by this edge: the whole program is ending.
                raise
            self.task.uncancel()
            return self._cause.value
        except Exception as error:
            return self._failure(error)
        return OK

    def _failure(self, error: Exception) -> Outcome:
        outcome = outcome_of(error, self._id)
        hidden = secret_values(self._request) if self._request is not None else frozenset()
        if outcome.unexpected:
            log_lines.log(
                logger,
                logging.ERROR,
                "unexpected error",
                method=self.method.name,
                traceback=scrub("".join(traceback.format_exception(error)), hidden),
            )
        if self._cause is not None:
            return self._cause.value
        self._announce(error, hidden)
        return Outcome(outcome.code, scrub(outcome.text, hidden))

    def _announce(self, error: Exception, hidden: frozenset[str]) -> None:
        notice = notice_of(self.method.name, self._request, error) if self._request is not None else None
        if notice is not None:
            self.method.announce(replace(notice, message=scrub(notice.message, hidden)))

    def _arm(self) -> None:
        """Read the caller's deadline, hand it down, and stop the call when it comes."""
        timeout = timeout_of(self._headers)
        if timeout is None:
            return
        moment = self._began + timeout
        if timeout <= 0:
            raise DeadlineExceeded("the caller's deadline had passed before the call came")
        # The loop's clock is time.monotonic().
        set_deadline(moment)
        self._timer = self._loop.call_at(moment, self.stop, Cause.EXPIRED)

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._since = self._loop.time()

    async def _answer(self, outcome: Outcome) -> None:
        if self._gone:
            return
        try:
            if outcome is OK and not self.method.streaming:
                await self._reply.send(self._response)
            await self._reply.end(outcome)
        except asyncio.CancelledError:
            if self._cause is None:
                raise
            self.task.uncancel()
            self._reply.abandon()
        except H2Error:
            # The client reset the stream or closed the connection in this moment.
            self._gone = True

    def _subject(self) -> dict[str, object]:
        return {} if self._request is None else self.method.subject_of(self._request)

    def _log_end(self, outcome: Outcome, seconds: float) -> None:
        level = self.method.level if outcome.code is Status.OK else _LEVELS.get(outcome.code, logging.INFO)
        if logger.isEnabledFor(level):
            log_lines.log(
                logger,
                level,
                "call ended",
                method=self.method.name,
                **self._subject(),
                code=outcome.code.name,
                seconds=round(seconds, 6),
                **({"error": clean_text(outcome.text)} if outcome.text else {}),
            )


async def refuse(stream: Stream, headers: Mapping[str, str]) -> None:
    """Answer what is no call of a known method."""
    reply = Reply(stream)
    try:
        if is_call(headers):
            path = headers.get(":path", "")
            await reply.end(Outcome(Status.UNIMPLEMENTED, f"unknown service or method {path}"))
        else:
            await reply.refuse_media_type()
    except H2Error as error:
        logger.debug("refused stream was gone: %s", error)


def is_call(headers: Mapping[str, str]) -> bool:
    """Whether the headers are those of a gRPC call."""
    return headers.get(":method") == "POST" and headers.get("content-type", "").startswith(CONTENT_TYPE)
