"""OCI image archives (image-layout.md of the OCI image specification): written, read and unpacked."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

_NAME = "org.opencontainers.image.ref.name"
# What containerd's import takes as the whole name.
_FULL_NAME = "io.containerd.image.name"


def write_archive(layout: Path, reference: str, output: Path) -> None:
    """A layout as one tar file, which has the same bytes for the same image; ``reference`` becomes its name."""
    index: dict[str, Any] = json.loads((layout / "index.json").read_text())
    (manifest,) = index["manifests"]
    manifest["annotations"] = {_NAME: reference.rpartition(":")[2], _FULL_NAME: reference}
    (layout / "index.json").write_text(json.dumps(index))
    with tarfile.open(output, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(path for path in layout.rglob("*") if path.is_file()):
            member = tarfile.TarInfo(str(path.relative_to(layout)))
            member.size, member.mode = path.stat().st_size, 0o644
            with path.open("rb") as stream:
                tar.addfile(member, stream)


@dataclass(frozen=True, slots=True)
class Archive:
    """An image of one platform in an archive. ``digest`` is its manifest's: two images are equal when theirs are."""

    path: Path
    digest: str
    config: dict[str, Any]
    layers: tuple[str, ...]
    packed_bytes: int

    @classmethod
    def read(cls, path: Path) -> Self:
        """KeyError or ValueError when it is none."""
        with tarfile.open(path) as tar:
            (entry,) = json.loads(_content(tar, "index.json"))["manifests"]
            manifest = json.loads(_blob(tar, entry["digest"]))
            config = json.loads(_blob(tar, manifest["config"]["digest"]))
        layers = manifest["layers"]
        return cls(
            path,
            entry["digest"],
            config,
            tuple(layer["digest"] for layer in layers),
            sum(layer["size"] for layer in layers),
        )

    @property
    def container(self) -> dict[str, Any]:
        """What a container of it is like (config.md): Env, User, Entrypoint, Labels, …"""
        settings: dict[str, Any] = self.config["config"]
        return settings

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Every file of every layer, as the layers have it."""
        for layer in self._open_layers():
            yield from layer

    def unpack(self, directory: Path) -> None:
        """The root directory. As root: owners are kept. Layers that remove something are not known here."""
        for layer in self._open_layers():
            layer.extractall(directory, filter="fully_trusted")

    def _open_layers(self) -> Iterator[tarfile.TarFile]:
        with tarfile.open(self.path) as tar:
            for digest in self.layers:
                with tarfile.open(fileobj=io.BytesIO(gzip.decompress(_blob(tar, digest)))) as layer:
                    yield layer


def _blob(tar: tarfile.TarFile, digest: str) -> bytes:
    content = _content(tar, f"blobs/{digest.replace(':', '/')}")
    if digest != f"sha256:{hashlib.sha256(content).hexdigest()}":
        raise ValueError(f"the blob {digest} is damaged")
    return content


def _content(tar: tarfile.TarFile, name: str) -> bytes:
    stream = tar.extractfile(name)
    if stream is None:
        raise ValueError(f"{name} is no file")
    return stream.read()
