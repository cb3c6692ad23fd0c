"""Builds the container image with buildah, and keeps it in the cache with a stamp of the sources that it was made from.

``ready_image()`` is for lanes that only need one; ``build_image(output)`` always builds.
"""

import ast
import configparser
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rds_csi import __version__
from tests.image.archive import Archive, write_archive
from tests.image.base import ready_base, run

ROOT = Path(__file__).parents[2]
# The name under which container runtimes find it once the archive is imported.
REFERENCE = "localhost/rds-csi:lane"
ARCHIVE = "rds-csi.tar"
# About two minutes on an idle machine with two cores.
_BUILD_SECONDS = 1800.0
_STEP_SECONDS = 300.0
# Where the Containerfile has the secret "ca".
_CA_IN_BUILD = "/run/secrets/ca"

# What the image is made from, and what makes it.
_SOURCES = (
    *("Containerfile", ".containerignore", "LICENSE", "README.md", "pyproject.toml"),
    *("requirements/build.txt", "requirements/runtime.txt", "container/*", "rds_csi/**/*.py"),
    *("tests/image/archive.py", "tests/image/base.py", "tests/image/build.py"),
)


def cache_directory() -> Path:
    """Where the base, the image and its stamp are kept (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rds-csi" / "image"


def ready_image() -> Archive:
    """The image of the sources as they are now: from the cache, or built into it. BuildError."""
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock"):
        archive, stamp = cache / ARCHIVE, cache / f"{ARCHIVE}.stamp"
        wanted = stamp_of_sources()
        if not (archive.exists() and stamp.exists() and stamp.read_text() == wanted):
            stamp.unlink(missing_ok=True)
            build_image(archive)
            stamp.write_text(wanted)
        return Archive.read(archive)


def build_image(output: Path) -> Archive:
    """Build the image from nothing but the base, and write it as an OCI archive to ``output``. Root. BuildError."""
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    base = ready_base(cache)
    # Layers of two builds at once have nothing to do with each other: each has a store of its own.
    with tempfile.TemporaryDirectory(prefix="rds-csi-image-", dir=cache) as scratch:
        place = Path(scratch)
        store = _Store(place)
        try:
            store.load(base, "localhost/base:lane")
            store.build("localhost/base:lane", REFERENCE)
            layout = store.push(REFERENCE)
        finally:
            store.close()
        unfinished = output.with_name(f"{output.name}.new")
        write_archive(layout, REFERENCE, unfinished)
        unfinished.rename(output)
    return Archive.read(output)


def stamp_of_sources() -> str:
    """A digest of every file that has a say in the image, by content and path."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _SOURCES for path in ROOT.glob(pattern) if path.is_file()}):
        digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _Store:
    """buildah with images and layers of its own below a directory; the machine's stay as they are."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._policy = place / "policy.json"
        # containers-policy.json(5): nothing comes from a registry, so there are no signatures to check.
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')

    def load(self, tar: Path, name: str) -> None:
        """Make an image of the root directory in a tar file."""
        container = self._run("from", "scratch").strip()
        self._run("add", "--quiet", container, str(tar), "/")
        self._run("commit", "--quiet", "--rm", "--timestamp=0", self._signatures, container, name)

    def build(self, base: str, name: str) -> None:
        """Build the Containerfile on ``base``."""
        words = ["bud", "--no-cache", "--isolation=chroot", "--format=oci", "--timestamp=0", self._signatures]
        words += [f"--build-arg=BASE={base}", f"--build-arg=VERSION={__version__}", f"--tag={name}"]
        words += [f"--file={ROOT / 'Containerfile'}", *self._package_index(), str(ROOT)]
        self._run(*words, timeout=_BUILD_SECONDS)

    def push(self, name: str) -> Path:
        """The image as an OCI layout, a directory."""
        layout = self._place / "layout"
        self._run("push", "--quiet", self._signatures, name, f"oci:{layout}")
        return layout

    def close(self) -> None:
        """Remove everything. The store's directories are mounts for as long as a build's container is there."""
        self._run("rm", "--all")
        shutil.rmtree(self._place / "run", ignore_errors=True)

    @property
    def _signatures(self) -> str:
        return f"--signature-policy={self._policy}"

    def _package_index(self) -> Iterator[str]:
        """How this machine's pip reaches its index, for the time of the build only."""
        config = configparser.RawConfigParser()
        config.read_dict({"global": dict(_pip_settings())})
        if ca := config["global"].pop("cert", ""):
            config["global"]["cert"] = _CA_IN_BUILD
            yield f"--secret=id=ca,src={ca}"
        for place in config["global"].get("find-links", "").split():
            if os.path.isdir(place):
                yield f"--volume={place}:{place}:ro"
        path = self._place / "pip.conf"
        with path.open("w", encoding="utf-8") as stream:
            config.write(stream)
        yield f"--secret=id=pip,src={path}"

    def _run(self, *words: str, timeout: float = _STEP_SECONDS) -> str:
        storage = [f"--root={self._place / 'store'}", f"--runroot={self._place / 'run'}"]
        return run(["buildah", *storage, f"--storage-driver={self._driver()}", *words], timeout=timeout)

    def _driver(self) -> str:
        """overlay, but on an overlay (a lane in a container) the slow and frugal one."""
        kind = run(["stat", "--file-system", "--format=%T", str(self._place)], timeout=_STEP_SECONDS).strip()
        return "vfs" if kind == "overlayfs" else "overlay"


def _pip_settings() -> Iterator[tuple[str, str]]:
    """Name and value of every setting that pip has here; of one that is told twice, the last wins."""
    lines = run([sys.executable, "-m", "pip", "config", "list"], timeout=_STEP_SECONDS).splitlines()
    # From the weakest to the strongest (pip's documentation, "Configuration").
    for wanted in ("global.", "install.", ":env:."):
        for line in lines:
            name, _, value = line.partition("=")
            if name.startswith(wanted):
                # pip prints values as Python writes them: a list has its lines in one.
                yield name.removeprefix(wanted), str(ast.literal_eval(value))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process at a time builds; the others wait and find the image."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
