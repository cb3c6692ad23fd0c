"""The cluster's certificates: one authority, and a certificate for every component."""

import datetime
import ipaddress
import json
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID = datetime.timedelta(days=1)
# A clock that was set back a little must not make them invalid.
_SKEW = datetime.timedelta(minutes=5)
# RS256 is what kube-apiserver signs ServiceAccount tokens with by default.
_TOKEN_KEY_BITS = 2048


class Authority:
    """A certificate authority that writes NAME.crt and NAME.key (PEM) into a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _subject("rds-csi-lane", "")
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = directory / "ca.crt"
        self.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, file: str, name: str, organisation: str = "", addresses: Iterable[str] = ()) -> None:
        """A certificate for a client, and for a server at these addresses or host names.

        Kubernetes reads the user from ``name`` and its group from ``organisation``.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = self._builder(_subject(name, organisation), key.public_key()).add_extension(
            x509.ExtendedKeyUsage(usages), critical=False
        )
        if names := [_general_name(address) for address in addresses]:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        (self._directory / f"{file}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _write_key(self._directory / f"{file}.key", key)

    def write_token_key(self) -> None:
        """sa.key and sa.pub: what ServiceAccount tokens are signed with."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=_TOKEN_KEY_BITS)
        _write_key(self._directory / "sa.key", key)
        (self._directory / "sa.pub").write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )

    def write_kubeconfig(self, file: str, server: str) -> Path:
        """NAME.conf for the certificate ``file``; JSON is YAML too."""
        user = {"client-certificate": f"{self._directory}/{file}.crt", "client-key": f"{self._directory}/{file}.key"}
        cluster = {"server": server, "certificate-authority": str(self.certificate)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lane", "cluster": cluster}],
            "users": [{"name": file, "user": user}],
            "contexts": [{"name": file, "context": {"cluster": "lane", "user": file}}],
            "current-context": file,
        }
        path = self._directory / f"{file}.conf"
        path.write_text(json.dumps(config))
        return path

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + _VALID)
        )


def _subject(name: str, organisation: str) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if organisation:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
    return x509.Name(attributes)


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
