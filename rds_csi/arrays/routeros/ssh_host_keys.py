"""The device's SSH host key: pinned in a file of the form of known_hosts (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""

import os

import asyncssh

from rds_csi.arrays.routeros.errors import HostKeyMismatch
from rds_csi.atomic import write_atomically
from rds_csi.errors import DriverError


class HostKeyPin:
    """What the known-hosts file says of one device, for one connection. Reads the file: construct it in a worker.

    HostKeyMismatch when the file cannot be read, or has no key for anybody and none may be accepted.
    """

    def __init__(self, path: str, *, accept_first: bool) -> None:
        self.path = path
        self._text = _read(path, accept_first)
        self._known = _parse(self._text, path)
        self._accept_first = accept_first
        self._pinned = False
        # The key that was shown and is not in the file; whether it was accepted as the first one.
        self._shown: asyncssh.SSHKey | None = None
        self._accepted = False

    @property
    def known(self) -> asyncssh.SSHKnownHosts:
        """What asyncssh compares the device's key with."""
        return self._known

    def accepts(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Whether ``key``, which the file has not, may be taken: only as the device's very first one."""
        self._shown = key
        # Lines whose key cannot be read are passed over by asyncssh; a device that has one is no new one.
        self._pinned = self._is_named(host, port) or any(
            self._known.match(host, addr, None if port == asyncssh.DEFAULT_PORT else port)
        )
        self._accepted = self._accept_first and not self._pinned
        return self._accepted

    def _is_named(self, host: str, port: int) -> bool:
        name = _name(host, port)
        lines = (line.removeprefix("@cert-authority ").split() for line in self._text.splitlines())
        return any(name in words[0].split(",") for words in lines if words)

    def fingerprint(self) -> str:
        """``SHA256:…`` of the key that was shown, "" when it was the pinned one."""
        return self._shown.get_fingerprint() if self._shown is not None else ""

    def refusal(self, label: str) -> DriverError:
        """The error for a device whose key was not taken."""
        shown = f"{label} shows the host key {self.fingerprint()}"
        if self._pinned:
            return HostKeyMismatch(
                f"{shown}, but {self.path} has another: somebody may be in between, or the device was reset",
                remedy="Compare the fingerprint on the device itself (/ip/ssh/print); replace the line only if equal.",
            )
        return HostKeyMismatch(
            f"{shown}, and {self.path} has none for it",
            remedy="Compare the fingerprint on the device (/ip/ssh/print) and add the key, "
            "or let the first one be accepted with accept-first-host-key=yes.",
        )

    def keep(self, host: str, port: int) -> bool:
        """Pin a key that was accepted as the first; False when there is none. Blocking.

        HostKeyMismatch when it cannot be written: otherwise any key would be a first one for ever.
        """
        if not self._accepted or self._shown is None:
            return False
        name = _name(host, port)
        key = b" ".join(self._shown.export_public_key().split()[:2]).decode()
        text = self._text if not self._text or self._text.endswith("\n") else f"{self._text}\n"
        try:
            write_atomically(self.path, f"{text}{name} {key}\n".encode())
        except OSError as error:
            raise HostKeyMismatch(
                f"the first host key cannot be kept in {self.path}: {error.strerror}",
                remedy="Name a known-hosts file in a directory that the driver may write.",
            ) from None
        return True


def _name(host: str, port: int) -> str:
    """How ssh(1) writes a host into the file."""
    return host if port == asyncssh.DEFAULT_PORT else f"[{host}]:{port}"


def _read(path: str, accept_first: bool) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except (OSError, UnicodeDecodeError) as error:
        if accept_first and isinstance(error, FileNotFoundError) and os.path.isdir(os.path.dirname(path)):
            return ""
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise HostKeyMismatch(
            f"the known-hosts file {path} cannot be read: {reason}",
            remedy="Make it with ssh-keyscan and compare the fingerprint with /ip/ssh/print on the device.",
        ) from None


def _parse(text: str, path: str) -> asyncssh.SSHKnownHosts:
    try:
        return asyncssh.import_known_hosts(text)
    except ValueError as error:
        raise HostKeyMismatch(
            f"the known-hosts file {path} is broken: {error}", remedy="It has one line for each key, as ssh writes it."
        ) from None
