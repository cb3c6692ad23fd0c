"""What the servers have been asked to do, counted exactly: the price of a driver's call is read here."""

from dataclasses import asdict, dataclass, fields


@dataclass(slots=True)
class Counters:
    """Numbers since the start or the last ``reset``."""

    ssh_connections: int = 0
    """TCP connections that the SSH server accepted."""
    https_connections: int = 0
    """TCP connections that the REST server accepted."""
    refused: int = 0
    """TCP connections that were closed at once: too many sessions, or the device is rebooting."""
    logins: int = 0
    """Users that came in over SSH."""
    denials: int = 0
    """Public keys and passwords that were wrong, on either server."""
    channels: int = 0
    """SSH sessions that a client asked to open, opened or not."""
    execs: int = 0
    """Scripts that arrived over SSH."""
    requests: int = 0
    """Requests that arrived over REST from a user who was let in."""

    @property
    def connections(self) -> int:
        """TCP connections to either server."""
        return self.ssh_connections + self.https_connections

    def reset(self) -> None:
        """Count from zero again."""
        for each in fields(self):
            setattr(self, each.name, 0)

    def as_dict(self) -> dict[str, int]:
        """Every number by its name, and ``connections``."""
        return {**asdict(self), "connections": self.connections}
