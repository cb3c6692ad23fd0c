"""The bearer token of the HTTP endpoint (RFC 6750), from a file that may be replaced while it serves."""

import hmac
import re
from collections.abc import Sequence

from rds_csi.errors import ConfigurationError
from rds_csi.rpc.http_files import FromFiles

# RFC 6750, section 2.1. Anything else could not be sent: a line break within, for one, ends the header.
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
# Far above any token; a wrong path may name anything.
_TOKEN_BYTES = 4096
_REMEDY = "Put one line into --http-token-file: letters, digits and -._~+/ (RFC 6750, section 2.1)."


class BearerToken:
    """What a scraper must show."""

    def __init__(self, path: str) -> None:
        """ConfigurationError when the file cannot be read or holds no token."""
        self._token = FromFiles((path,), lambda: _read(path))

    def is_shown(self, header_lines: Sequence[bytes]) -> bool:
        """Whether the request's header (its lines, without the first) shows the token, once."""
        values = [
            value.strip()
            for name, _, value in (line.partition(b":") for line in header_lines)
            if name.strip().lower() == b"authorization"
        ]
        if len(values) != 1:
            return False
        scheme, _, shown = values[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(shown.strip(), self._token.get())


def open_token(path: str) -> BearerToken | None:
    """The token in the file; None when no file is named. ConfigurationError when there is none in it."""
    return BearerToken(path) if path else None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(_TOKEN_BYTES + 1).strip()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}", remedy=_REMEDY) from None
    if not content:
        raise ConfigurationError(f"{path} is empty", remedy=_REMEDY)
    if len(content) > _TOKEN_BYTES or not _TOKEN.fullmatch(content):
        # What it holds instead is not told: it may be a secret all the same.
        raise ConfigurationError(f"{path} holds no bearer token", remedy=_REMEDY)
    return content
