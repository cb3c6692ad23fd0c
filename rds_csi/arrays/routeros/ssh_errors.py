"""Failures of asyncssh while a connection is made, in the words of ``errors``."""

import asyncssh

from rds_csi.arrays.routeros.errors import BadCredentials, HostKeyMismatch, NotTrusted, Unsent
from rds_csi.errors import DriverError


def dial_error(error: Exception, label: str, user: str) -> DriverError:
    """What a failed connection to ``label`` (host:port) means; nothing was sent in any case."""
    if isinstance(error, TimeoutError):
        return Unsent(f"{label} did not finish the SSH handshake in time")
    if isinstance(error, asyncssh.PermissionDenied):
        return BadCredentials(
            f"{label} refused the key of the user {user}",
            remedy=f"Import its public part on the device: /user/ssh-keys/import user={user} public-key-file=….",
        )
    if isinstance(error, asyncssh.KeyExchangeFailed):
        return _no_common_algorithm(error, label)
    if isinstance(error, asyncssh.ConnectionLost):
        return Unsent(
            f"{label} closed the connection during the SSH handshake",
            remedy="If it always does, let this address in: /ip/service (ssh), and look at max-sessions there.",
        )
    if isinstance(error, asyncssh.Error):
        return Unsent(f"no SSH connection to {label}: {error.reason}")
    if isinstance(error, OSError):
        return Unsent(f"no connection to {label}: {error.strerror or error}")
    return Unsent(f"no SSH connection to {label}: {type(error).__name__}")


def _no_common_algorithm(error: asyncssh.KeyExchangeFailed, label: str) -> DriverError:
    if "host key" in error.reason:
        # Only kinds of keys that the known-hosts file has are asked for.
        return HostKeyMismatch(
            f"{label} has no host key of the kind that is pinned ({error.reason})",
            remedy="If the device made new host keys, replace its line in the known-hosts file.",
        )
    return NotTrusted(
        f"{label} and this driver have no SSH algorithm in common ({error.reason})",
        remedy="Look at /ip/ssh (ciphers, strong-crypto) on the device.",
    )
