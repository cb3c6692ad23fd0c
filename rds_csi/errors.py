"""What can go wrong, in the words of a CSI user; ``rpc`` alone turns these into gRPC codes.

Each error says what happened and where (volume id, target, the tool's own last line); ``remedy`` says
what to do next. CSI 1.13, section "Error Scheme", gives the meaning of each class.
"""


class DriverError(Exception):
    """The base of every error that the driver raises on purpose.

    ``remedy`` is one sentence that tells a person what to do next; it is part of the text.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message.rstrip('.')}. {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy


class InvalidArgument(DriverError):
    """The request itself is wrong; repeating it cannot help."""


class NotFound(DriverError):
    """What was asked for is known to be absent. Never used for "could not look"."""


class AlreadyExists(DriverError):
    """The name is taken by something that is not compatible with the request."""


class FailedPrecondition(DriverError):
    """The state of the volume forbids the step until somebody has acted."""


class FormatRefused(FailedPrecondition):
    """A device is not given a filesystem, as it holds data, or may hold some."""


class OutOfRange(DriverError):
    """A size or a position that cannot be given."""


class ResourceExhausted(DriverError):
    """No room is left: on the array, on the node, or in a message."""


class OutOfReach(ResourceExhausted):
    """There may be room, but not where it is asked for: a CO tries another topology (CSI 1.13, CreateVolume)."""


class Aborted(DriverError):
    """Another operation on the same volume is running, or a page token is stale; ask again."""


class Unavailable(DriverError):
    """An array, portal, tool or device did not answer; a later call may succeed."""


class DeadlineExceeded(DriverError):
    """A wait came to its end before its condition held."""


class Unimplemented(DriverError):
    """The capability is not offered."""


class Internal(DriverError):
    """The driver or its machine is broken in a way the caller cannot influence."""


class ConfigurationError(DriverError):
    """A flag, URL or directory at start is wrong: told in one sentence, exit status 2."""
