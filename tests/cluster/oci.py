"""OCI image archives made of plain files (image-spec: image layout, manifest, config)."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
# Not compressed: the archive is read once, on this machine.
_LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True)
class Image:
    """One image of one layer. Paths are relative to its root directory."""

    name: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    directories: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str = ""


def write_archive(output: Path, images: Iterable[Image]) -> None:
    """Write one archive with all images, each under its full name (``ctr images import``)."""
    blobs: dict[str, bytes] = {}
    manifests = [_add(image, blobs) for image in images]
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": manifests}
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_suffix(".new")
    with tarfile.open(unfinished, "w") as archive:
        _add_file(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}', 0o644)
        _add_file(archive, "index.json", json.dumps(index).encode(), 0o644)
        for digest, blob in blobs.items():
            _add_file(archive, f"blobs/sha256/{digest}", blob, 0o644)
    os.replace(unfinished, output)


def _add(image: Image, blobs: dict[str, bytes]) -> dict[str, object]:
    """Add the blobs of an image; its entry in the index."""
    layer = _layer(image)
    config = {
        "architecture": _ARCHITECTURES[os.uname().machine],
        "os": "linux",
        "config": {
            "Env": ["PATH=/bin"],
            "Entrypoint": list(image.entrypoint),
            "Cmd": list(image.command),
            "User": image.user,
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _blob(_CONFIG, json.dumps(config).encode(), blobs),
        "layers": [_blob(_LAYER, layer, blobs)],
    }
    entry = _blob(_MANIFEST, json.dumps(manifest).encode(), blobs)
    tag = image.name.rpartition(":")[2]
    return {
        **entry,
        "annotations": {"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": tag},
    }


def _layer(image: Image) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in image.directories:
            _add_entry(archive, name, tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755)
        for name, content in image.files.items():
            _add_file(archive, name, content, 0o644 if name.startswith("etc/") else 0o755)
        for name, target in image.links.items():
            _add_entry(archive, name, tarfile.SYMTYPE, 0o777, target)
    return buffer.getvalue()


def _add_entry(archive: tarfile.TarFile, name: str, kind: bytes, mode: int, target: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname = kind, mode, target
    archive.addfile(entry)


def _add_file(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size = mode, len(content)
    archive.addfile(entry, io.BytesIO(content))


def _blob(media_type: str, content: bytes, blobs: dict[str, bytes]) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    blobs[digest] = content
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}
