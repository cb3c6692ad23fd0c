"""TLS towards the device: a CA file, or the fingerprint of its own certificate; checked before anything is said."""

import hashlib
import hmac
import ssl

from rds_csi.arrays.routeros.errors import TlsMistrust, Unsent
from rds_csi.arrays.routeros.options import RestOptions
from rds_csi.arrays.routeros.secrets import read_file
from rds_csi.errors import DriverError

# openssl, x509_vfy.h: X509_V_ERR_CERT_NOT_YET_VALID, _CERT_HAS_EXPIRED, _HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH.
_NOT_YET_VALID = 9
_EXPIRED = 10
_OTHER_NAME = (62, 64)


class _PinnedObject(ssl.SSLObject):
    """A TLS connection whose handshake fails when the certificate is not the pinned one."""

    def do_handshake(self) -> None:
        super().do_handshake()
        context = self.context
        certificate = self.getpeercert(binary_form=True) or b""
        shown = hashlib.sha256(certificate).hexdigest()
        if not isinstance(context, _PinningContext) or not hmac.compare_digest(shown, context.fingerprint):
            # With a number, as OpenSSL's own errors have: their readers look at the second part.
            raise ssl.SSLCertVerificationError(1, f"its fingerprint is {shown}")


class _PinningContext(ssl.SSLContext):
    """Checks one certificate by its sha256 instead of chain, name and dates; the pin says more than they do."""

    sslobject_class = _PinnedObject
    fingerprint = ""


def tls_context(options: RestOptions) -> ssl.SSLContext:
    """How certificates are checked. Blocking: reads the CA file. TlsMistrust when that cannot be used."""
    if options.tls_fingerprint:
        pinning = _PinningContext(ssl.PROTOCOL_TLS_CLIENT)
        pinning.check_hostname = False
        pinning.verify_mode = ssl.CERT_NONE
        pinning.fingerprint = options.tls_fingerprint
        return pinning
    # Not create_default_context: no system CAs, and from Python 3.13 on it refuses RouterOS's own CAs as too plain.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=read_file(options.tls_ca, "the CA file").decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise TlsMistrust(
            f"the CA file {options.tls_ca} holds no certificate in PEM form",
            remedy="Export the CA on the device: /certificate/export-certificate type=pem.",
        ) from None
    return context


def tls_error(error: ssl.SSLError, label: str) -> DriverError:
    """What a failed handshake with ``label`` (host:port) means."""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return Unsent(f"{label} closed the connection during the TLS handshake")
    if isinstance(error, ssl.SSLCertVerificationError):
        return _distrusted(error, label)
    return TlsMistrust(
        f"no TLS with {label}: {error.reason or error.strerror}",
        remedy="Assign a certificate to www-ssl on the device (/ip/service), and name its port in the URL.",
    )


def _distrusted(error: ssl.SSLCertVerificationError, label: str) -> TlsMistrust:
    code = getattr(error, "verify_code", 0)
    if not code:
        return TlsMistrust(
            f"{label} shows another certificate than the pinned one: {error.strerror}",
            remedy="Compare it on the device (/certificate/print); if it is its own, correct tls-fingerprint.",
        )
    remedy = "Name the CA that signed the device's certificate as tls-ca, or pin the certificate by tls-fingerprint."
    if code == _EXPIRED:
        remedy = "Renew the certificate on the device, and look at both clocks."
    elif code == _NOT_YET_VALID:
        remedy = "Set the clocks of the device and of this host."
    elif code in _OTHER_NAME:
        remedy = "Make a certificate with this name or address as subject-alt-name, or pin it by tls-fingerprint."
    return TlsMistrust(f"the certificate of {label} is not trusted: {error.verify_message}", remedy=remedy)
