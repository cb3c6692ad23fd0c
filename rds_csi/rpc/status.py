"""The one place where exceptions become gRPC codes (CSI 1.13, "Error Scheme"), and their texts become headers."""

import errno
from dataclasses import dataclass

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from rds_csi import errors
from rds_csi.logging import single_line

# grpc-message is a header: percent-encoding may triple it, and clients refuse header lists beyond 8 KiB.
MAX_TEXT_BYTES = 1024

_CODES: dict[type[errors.DriverError], Status] = {
    errors.InvalidArgument: Status.INVALID_ARGUMENT,
    errors.NotFound: Status.NOT_FOUND,
    errors.AlreadyExists: Status.ALREADY_EXISTS,
    errors.FailedPrecondition: Status.FAILED_PRECONDITION,
    errors.OutOfRange: Status.OUT_OF_RANGE,
    errors.ResourceExhausted: Status.RESOURCE_EXHAUSTED,
    errors.Aborted: Status.ABORTED,
    errors.Unavailable: Status.UNAVAILABLE,
    errors.DeadlineExceeded: Status.DEADLINE_EXCEEDED,
    errors.Unimplemented: Status.UNIMPLEMENTED,
    errors.Internal: Status.INTERNAL,
    errors.ConfigurationError: Status.INTERNAL,
}

# Disk full, quota used up, too many open files: more of something has to be had first.
_EXHAUSTED = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended. ``unexpected``: nobody raised this on purpose, so the log needs the traceback."""

    code: Status
    text: str = ""
    unexpected: bool = False


OK = Outcome(Status.OK)


def outcome_of(error: BaseException, request_id: str) -> Outcome:
    """The outcome of a call that raised ``error``. The text of an unexpected error stays in the log."""
    if isinstance(error, errors.DriverError):
        return Outcome(_code_of(type(error)), str(error))
    if isinstance(error, GRPCError):
        return Outcome(error.status, error.message or "")
    if isinstance(error, OSError) and error.errno in _EXHAUSTED:
        # Only the kernel's own words: a path in the error may be anybody's.
        return Outcome(Status.RESOURCE_EXHAUSTED, errno_text(error), unexpected=True)
    if isinstance(error, TimeoutError):
        return Outcome(Status.DEADLINE_EXCEEDED, "something did not answer in time", unexpected=True)
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        # A task group with one failed task tells that failure.
        return outcome_of(error.exceptions[0], request_id)
    return Outcome(
        Status.INTERNAL, f"{type(error).__name__}: see the driver's log for request {request_id}", unexpected=True
    )


def errno_text(error: OSError) -> str:
    """``No space left on device (ENOSPC)``."""
    return f"{error.strerror} ({errno.errorcode.get(error.errno or 0, error.errno)})"


def clean_text(text: str) -> str:
    """``text`` fit for a header and a terminal: one line, no control characters, at most 1 KiB of UTF-8."""
    data = single_line(text[: MAX_TEXT_BYTES + 1]).encode("utf-8", "replace")
    if len(data) <= MAX_TEXT_BYTES:
        return data.decode()
    return data[: MAX_TEXT_BYTES - 3].decode("utf-8", "ignore") + "..."


def _code_of(error_type: type[errors.DriverError]) -> Status:
    for base in error_type.__mro__:
        if issubclass(base, errors.DriverError) and base in _CODES:
            return _CODES[base]
    return Status.INTERNAL
