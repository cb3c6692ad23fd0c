"""Why a connect failed: what nvme-cli or dd printed and what the portal says for itself become one reason.

nvme-cli ends with 1 whatever happened, and 2.13 does not print the kernel's errno any more; the captures of
both versions are the tests of this module. dd prints strerror(3) of the errno, in the C locale.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from rds_csi.errors import DriverError, FailedPrecondition, InvalidArgument
from rds_csi.retry import Transient


class Reason(Enum):
    """What stood in the way of a connect."""

    ALREADY = "already connected"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed out"
    RESET = "reset"
    BUSY = "busy"
    REJECTED = "rejected"
    NO_NVME = "no nvme"
    NO_INTERFACE = "no interface"
    NO_DEVICE = "no device"
    KILLED = "killed"
    UNRESOLVED = "unresolved"
    INVALID = "invalid"
    NO_MODULE = "no module"
    FORBIDDEN = "forbidden"
    # The text does not tell; the portal has to be asked.
    UNTOLD = "untold"


# The kernel's EINVAL: a bad option, or a peer that closed the connection before its first answer (Linux 6.1).
_EINVAL = "invalid argument"

# The device was opened, and the write of the options failed: dd, and nvme-cli 2.3.
_WRITING = ("error writing", "failed to write")

# What the lines about the connect itself have in them.
_OWN = ("could not add new controller", "nvme-fabrics", "already connected")

# What a line of nvme-cli or dd says; the first match decides.
_PHRASES: tuple[tuple[str, Reason], ...] = (
    ("already connected", Reason.ALREADY),
    ("operation already in progress", Reason.ALREADY),
    ("connection refused", Reason.REFUSED),
    ("connection reset", Reason.RESET),
    ("timed out", Reason.TIMED_OUT),
    ("timeout", Reason.TIMED_OUT),
    ("no route to host", Reason.UNREACHABLE),
    ("network is unreachable", Reason.UNREACHABLE),
    ("network unreachable", Reason.UNREACHABLE),
    ("host is unreachable", Reason.UNREACHABLE),
    ("host is down", Reason.UNREACHABLE),
    ("temporarily unavailable", Reason.BUSY),
    ("temporary failure", Reason.BUSY),
    ("try again", Reason.BUSY),
    ("interrupted system call", Reason.BUSY),
    ("cannot allocate memory", Reason.BUSY),
    ("broken pipe", Reason.RESET),
    ("connection aborted", Reason.RESET),
    ("software caused connection abort", Reason.RESET),
    ("did not appear", Reason.NO_DEVICE),
    ("input/output error", Reason.REJECTED),
    ("failed to resolve host", Reason.UNRESOLVED),
    ("no support for hostname", Reason.UNRESOLVED),
    ("failed to get transport address", Reason.UNRESOLVED),
    ("permission denied", Reason.FORBIDDEN),
    ("operation not permitted", Reason.FORBIDDEN),
    ("failed to scan topology", Reason.NO_MODULE),
    ("failed to open /dev/nvme-fabrics", Reason.NO_MODULE),
    ("nvme-fabrics': no such file or directory", Reason.NO_MODULE),
    ("no such device", Reason.NO_INTERFACE),
    ("unrecognized option", Reason.INVALID),
    ("required argument", Reason.INVALID),
    (_EINVAL, Reason.INVALID),
)


@dataclass(frozen=True, slots=True)
class _Meaning:
    error: Callable[..., DriverError]
    text: str
    remedy: str


_MEANINGS: Mapping[Reason, _Meaning] = {
    Reason.ALREADY: _Meaning(
        Transient, "a session that was there a moment ago has gone", "The call is repeated by itself."
    ),
    Reason.REFUSED: _Meaning(
        Transient, "the portal refused the connection", "Is the NVMe/TCP server running and listening on that port?"
    ),
    Reason.UNREACHABLE: _Meaning(
        Transient,
        "the portal cannot be reached",
        "Look at this node's routes and filters, and at the network between it and the array.",
    ),
    Reason.TIMED_OUT: _Meaning(
        Transient, "the portal did not answer in time", "Is the array up, and does a firewall drop the port?"
    ),
    Reason.RESET: _Meaning(Transient, "the portal closed the connection", "Is the array restarting?"),
    Reason.BUSY: _Meaning(
        Transient,
        "the kernel was not able to connect just now, or the array did not answer it",
        "Look at dmesg on this node.",
    ),
    Reason.NO_DEVICE: _Meaning(
        Transient, "no device appeared", "Look whether the array has the volume's namespace enabled."
    ),
    Reason.KILLED: _Meaning(
        Transient, "the program that connects was killed", "Look at dmesg on this node: is memory short?"
    ),
    Reason.REJECTED: _Meaning(
        FailedPrecondition,
        "the array does not let this host connect: the NQN is unknown there, or this host is not allowed",
        "Look whether the volume is exported at that portal to this host's NQN; dmesg on this node tells which it is.",
    ),
    Reason.NO_NVME: _Meaning(
        FailedPrecondition,
        "what listens at the portal does not speak NVMe/TCP",
        "Compare address and port of the volume with the array's.",
    ),
    Reason.NO_INTERFACE: _Meaning(
        FailedPrecondition, "this node has not the network interface", "Set up the interface, or change hostIface."
    ),
    Reason.UNRESOLVED: _Meaning(
        Transient, "the portal's name cannot be resolved", "Look at the node's DNS, or give the array's IP address."
    ),
    Reason.INVALID: _Meaning(
        InvalidArgument,
        "the kernel or nvme-cli does not take the connection parameters",
        "Compare the StorageClass parameters with what dmesg on this node complains about.",
    ),
    Reason.NO_MODULE: _Meaning(
        FailedPrecondition,
        "the kernel has no NVMe/TCP host",
        "Run modprobe nvme-tcp on the node, and load it at every start from /etc/modules-load.d.",
    ),
    Reason.FORBIDDEN: _Meaning(
        FailedPrecondition, "this process may not connect", "The driver has to run as root in a privileged container."
    ),
    Reason.UNTOLD: _Meaning(Transient, "the connect failed", "Look at dmesg on this node."),
}


def classify(text: str) -> tuple[Reason, str]:
    """The reason in what nvme-cli or dd printed, and the line that tells it; UNTOLD and "" when none does.

    Where a line is about the connect itself, only such lines count: a warning before them may have words like
    "permission denied" in it, too. The first telling one decides: 2.3 prints the errno first and then a general
    line, and both print their whole usage, with words like "timeout" in it, after a complaint about an option.
    """
    lines = [line.strip() for line in text.splitlines()]
    own = [line for line in lines if any(part in line.lower() for part in _OWN)]
    for line in own or lines:
        lowered = line.lower()
        for phrase, reason in _PHRASES:
            if phrase in lowered:
                return reason, line
    return Reason.UNTOLD, ""


def failure(reason: Reason, portal: str, nqn: str, detail: str) -> DriverError:
    """The error to raise: ``Transient`` when another attempt may help. ``detail`` is the tool's own last line."""
    meaning = _MEANINGS[reason]
    return meaning.error(f"cannot connect {nqn} at {portal}: {meaning.text} ({detail})", remedy=meaning.remedy)


async def settle(reason: Reason, line: str, ask: Callable[[], Awaitable[Reason | None]]) -> Reason:
    """The reason after the portal was asked, where the text told none or one of two; ``ask`` tells what keeps
    NVMe/TCP from answering there.

    Who answers has rejected the connect. Who does not may just have gone away in the middle of it, which the
    kernel reports as EIO or EINVAL, too. EACCES, EPERM and EINVAL are also what this node's routes and filters say.
    """
    if not _is_doubtful(reason, line.lower()):
        return reason
    answer = await ask()
    if answer is None:
        return Reason.REJECTED if reason is Reason.UNTOLD else reason
    return reason if answer is Reason.UNTOLD else answer


def _is_doubtful(reason: Reason, line: str) -> bool:
    if reason is Reason.FORBIDDEN:
        # Who may open the device may write to it: then it was the network that forbade the connect.
        return any(writing in line for writing in _WRITING)
    return reason in (Reason.UNTOLD, Reason.REJECTED) or _EINVAL in line
