"""Where a pod finds the API server and its own credentials (Kubernetes docs, "Accessing the API from a Pod")."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from rds_csi.errors import ConfigurationError

HOST_VARIABLE = "KUBERNETES_SERVICE_HOST"
PORT_VARIABLE = "KUBERNETES_SERVICE_PORT"
_DEFAULT_PORT = 443
# Where the kubelet mounts the token of the pod's ServiceAccount.
_DIRECTORY = "var/run/secrets/kubernetes.io/serviceaccount"
_TOKEN, _CA = "token", "ca.crt"
# Tokens and CA bundles are some KB.
_MOST_BYTES = 1 << 20
# RFC 6750, section 2.1: anything else would be no header, and an error about the header would show it.
_BEARER = re.compile(r"[A-Za-z0-9\-._~+/]+=*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Credentials:
    """The token, which is never shown, and the CA bundle (PEM) by which the API server is known."""

    token: str
    ca: str

    def __repr__(self) -> str:
        return "Credentials(…)"


@dataclass(frozen=True, slots=True)
class Access:
    """The API server's address, and the directory with the files of the ServiceAccount."""

    host: str
    port: int
    directory: str

    @property
    def label(self) -> str:
        """``host:port``; an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def read(self) -> Credentials:
        """Read the files; the kubelet replaces the token before it ends. Blocking. ConfigurationError."""
        token = self._text(_TOKEN).strip()
        if not _BEARER.fullmatch(token):
            raise ConfigurationError(f"{os.path.join(self.directory, _TOKEN)} holds no token")
        # Between its certificates a bundle may have words of any language.
        return Credentials(token, self._text(_CA, errors="ignore"))

    def _text(self, name: str, errors: str = "strict") -> str:
        path = os.path.join(self.directory, name)
        try:
            with open(path, encoding="ascii", errors=errors) as stream:
                return stream.read(_MOST_BYTES)
        except OSError as error:
            raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
        except ValueError:
            # UnicodeDecodeError, whose text shows what was read.
            raise ConfigurationError(f"{path} holds something else than ASCII") from None


def find_access(environment: Mapping[str, str], root: str = "/") -> Access | None:
    """The access of this pod; None when this is no pod with a ServiceAccount's token."""
    host, port = environment.get(HOST_VARIABLE, ""), environment.get(PORT_VARIABLE, str(_DEFAULT_PORT))
    directory = os.path.join(root, _DIRECTORY)
    if not host or not port.isdecimal() or not os.path.isfile(os.path.join(directory, _TOKEN)):
        return None
    return Access(host, int(port), directory)
