"""What can go wrong between the driver and RouterOS, and what each failure says about the device's state.

Two families: those after which it is known that nothing was done (``Unsent`` and the refusals), and
``LostReply``/``GarbageReply``, after which the device must be looked at before anything is decided.
"""

from rds_csi.errors import DriverError, FailedPrecondition, Unavailable
from rds_csi.retry import Transient


class Unsent(Transient):
    """Nothing of the command or request has reached the device: it may be repeated freely."""


class LostReply(Unavailable):
    """The command or request was sent and its reply did not come: it may or may not have been done, so look."""


class GarbageReply(Unavailable):
    """A reply came that is not what RouterOS says (broken JSON, HTML, too long, a field missing): look as well."""


class Refused(FailedPrecondition):
    """RouterOS itself said no; ``text`` holds its own words. Nothing was done by what it refused."""

    def __init__(self, message: str, *, text: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.text = text


class NotPermitted(Refused):
    """The user's group lacks a policy, which the remedy names."""


class NotTrusted(FailedPrecondition):
    """No conversation: one side does not accept the other's identity. A person must act; nothing was sent."""


class BadCredentials(NotTrusted):
    """The device refused the user's key or password, or the file with it cannot be used."""


class HostKeyMismatch(NotTrusted):
    """The device showed another SSH host key than the one that is pinned, or none is pinned yet."""


class TlsMistrust(NotTrusted):
    """The device's certificate is expired, of an unknown issuer, for another name, or not the pinned one."""


def is_certainly_undone(error: DriverError) -> bool:
    """Whether the failed command or request is known to have changed nothing."""
    return isinstance(error, Unsent | Refused | NotTrusted)
