"""TLS of the HTTP endpoint: a certificate and its key, from files that may be replaced while it serves."""

import ssl

from rds_csi.errors import ConfigurationError
from rds_csi.rpc.http_files import FromFiles

_REMEDY = "Give --http-tls-cert and --http-tls-key PEM files of one certificate chain and its key without a passphrase."

# What a new connection is to be secured with; a context of its own for each state of the files, so that a pair that
# does not fit together never gets into one that is in use.
TlsContext = FromFiles[ssl.SSLContext]


def open_tls(cert: str, key: str) -> TlsContext | None:
    """What the two files hold; None when neither is named. ConfigurationError when only one is, or when they cannot be
    used."""
    if not cert and not key:
        return None
    if not cert or not key:
        missing = "--http-tls-key" if cert else "--http-tls-cert"
        raise ConfigurationError(f"{missing} is missing", remedy="TLS needs both, plain HTTP neither.")
    return FromFiles((cert, key), lambda: _context(cert, key))


def _context(cert: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A scraper that would rather have HTTP/2 is told that there is none.
    context.set_alpn_protocols(["http/1.1"])
    try:
        # The password: OpenSSL would ask for one on the terminal, and wait.
        context.load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        # Before OSError, of which it is one.
        raise ConfigurationError(f"{cert} and {key} cannot be used: {error.reason or error}", remedy=_REMEDY) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(f"{cert} and {key} cannot be used: {reason}", remedy=_REMEDY) from None
    return context
