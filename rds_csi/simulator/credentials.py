"""Keys, certificates and passwords of a simulated device and its users, made anew for every simulator."""

import ipaddress
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncssh
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# A clock that is a little slow must not find the certificate "not yet valid".
_EARLIER = timedelta(days=1)
_CURVE = ec.SECP256R1
_SSH_PORT = 22


@dataclass(frozen=True, slots=True)
class Certificates:
    """A certificate authority and the server's certificate that it signed, as PEM."""

    authority: bytes
    certificate: bytes
    key: bytes
    fingerprint: str
    """SHA-256 of the server's certificate, 64 lower-case hex digits."""


@dataclass(frozen=True, slots=True)
class CredentialFiles:
    """Where ``write`` has put what a client needs. ``fingerprint`` is a text, everything else the path of a file."""

    client_key: Path
    known_hosts: Path
    password: Path
    """The password of the first user, one line."""
    users: Path
    """``name:password`` of every user, one a line."""
    tls_ca: Path
    tls_certificate: Path
    fingerprint: str


def make_password() -> str:
    """A password that nobody else has."""
    return secrets.token_urlsafe(18)


def make_host_key(algorithm: str) -> asyncssh.SSHKey:
    """The key of an SSH server: ``ssh-ed25519`` or ``ssh-rsa`` (2048 bits)."""
    if algorithm == "ssh-rsa":
        return asyncssh.generate_private_key(algorithm, key_size=2048)
    return asyncssh.generate_private_key(algorithm)


def make_client_key() -> asyncssh.SSHKey:
    """A key with which users log in."""
    return asyncssh.generate_private_key("ssh-ed25519", comment="rds-csi-simulator")


def public_line(key: asyncssh.SSHKey) -> str:
    """The public half in OpenSSH's one-line form."""
    return key.export_public_key("openssh").decode().strip()


def known_hosts_line(hosts: tuple[str, ...], port: int, key: str) -> str:
    """A line of known_hosts (sshd(8)): hosts at the usual port stand for themselves, others with their port."""
    names = [host if port == _SSH_PORT else f"[{host}]:{port}" for host in hosts]
    return f"{','.join(names)} {key}\n"


def make_certificates(hosts: tuple[str, ...], days: int) -> Certificates:
    """Certificates for these addresses and names, good for ``days`` from now; below 0 they have expired."""
    now = datetime.now(UTC)
    until = now + timedelta(days=days)
    since = min(now, until) - _EARLIER
    authority_key, key = ec.generate_private_key(_CURVE()), ec.generate_private_key(_CURVE())
    authority_name = _name("rds-csi simulator CA")
    authority = (
        _builder(authority_name, authority_name, authority_key, since, max(until, now + _EARLIER))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        _builder(_name("rds-csi simulator"), authority_name, key, since, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return Certificates(
        authority=authority.public_bytes(pem),
        certificate=certificate.public_bytes(pem),
        key=key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def write_private(path: Path, data: bytes) -> None:
    """A file that only its owner can read; one that is there is replaced. Blocks; OSError."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, since: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
