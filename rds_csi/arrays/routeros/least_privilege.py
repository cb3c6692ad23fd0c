"""The user that the driver needs on the device: its policies, and the exact lines that make it."""

from collections.abc import Sequence

from rds_csi.arrays.routeros.options import RestOptions, SshOptions

GROUP = "rds-csi"
# What stands for what only a person knows, as PASSWORD does.
NETWORKS = "NODE-NETWORKS"
KEY_FILE = "rds-csi.pub"
CERTIFICATE = "CERTIFICATE"

# MikroTik's manual ("User") and, for REST, what was seen to be enough on a device with RouterOS 7.24.4. The set for SSH
# is inferred: it has not been tried.
_SSH = ("ssh", "read", "write")
_REST = ("read", "write", "test", "api", "rest-api")
# What may be granted without a word: it lets nobody read secrets or change users.
_HARMLESS = frozenset({"test"})


def needed_policies(transport: SshOptions | RestOptions) -> tuple[str, ...]:
    """What the user's group has to have, in the order of the lines."""
    return _SSH if isinstance(transport, SshOptions) else _REST


def surplus_policies(transport: SshOptions | RestOptions, granted: frozenset[str]) -> tuple[str, ...]:
    """What the group has and the driver has no use for, sorted."""
    return tuple(sorted(granted - _HARMLESS - frozenset(needed_policies(transport))))


def setup_lines(transport: SshOptions | RestOptions, user: str = "") -> Sequence[str]:
    """The lines to type into the device's terminal, in this order. ``user`` stands for one of a users file.

    Capitals stand for what only a person knows. RouterOS 7.24 has ``available-from`` for ``address`` of services.
    """
    name = user or transport.user or GROUP
    lines = [
        f"/user/group/add name={GROUP} policy={','.join(needed_policies(transport))}",
        f"/user/add name={name} group={GROUP} address={NETWORKS}"
        + (" password=PASSWORD" if isinstance(transport, RestOptions) else ""),
    ]
    if isinstance(transport, SshOptions):
        return (
            *lines,
            f"/user/ssh-keys/import user={name} public-key-file={KEY_FILE}",
            _service("ssh", transport.port),
        )
    return (*lines, f"/ip/service/set www-ssl certificate={CERTIFICATE}", _service("www-ssl", transport.port))


def _service(name: str, port: int) -> str:
    return f"/ip/service/set {name} disabled=no port={port}"
