"""The images that the suite's pods ask for, under their usual names: busybox, and agnhost with busybox beside it."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

from tests.cluster import debian
from tests.cluster.oci import Image, write_archive
from tests.cluster.suite import programs

_REGISTRY = "registry.k8s.io/e2e-test-images"
# Pods use of these a shell and small programs. Versions as in k8s.io/kubernetes/test/utils/image/manifest.go.
_BUSYBOX_NAMES = ("busybox:1.37.0-1", "nginx:1.15-4")
# Of this one they want the dd of GNU (oflag=nocache), and so another shell than busybox, which prefers its own dd.
_GNU_NAME = "glibc-dns-testing:2.0.0"

# What the suite wants done on a node it asks of a privileged pod that has the node's root directory at /rootfs, and
# names the mount namespace of process 1. In this lane that is the machine's own; the node is one beside it.
_ON_NODE = b'#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec chroot /rootfs "$@"\n'
_LIST_SECONDS = 10.0


def archive() -> Path:
    """The archive that ``write_images`` of these sources has made."""
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    return programs.home() / f"images-{version}.tar"


def write_images() -> None:
    """Make the archive unless it is there."""
    if archive().exists():
        return
    busybox = debian.tool("busybox")
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True, timeout=_LIST_SECONDS)
    files = {
        "bin/busybox": busybox.read_bytes(),
        "etc/passwd": b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
        "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
    }
    links = {f"bin/{applet}": "busybox" for applet in listed.stdout.split() if f"bin/{applet}" not in files}
    directories = ("bin", "dev", "etc", "mnt", "opt", "proc", "sys", "tmp")
    plain = [Image(f"{_REGISTRY}/{name}", files=files, links=links, directories=directories) for name in _BUSYBOX_NAMES]
    agnhost = Image(
        f"{_REGISTRY}/agnhost:{programs.agnhost_version()}",
        files={**files, "agnhost": programs.program("agnhost").read_bytes(), "bin/nsenter": _ON_NODE},
        links={path: target for path, target in links.items() if path != "bin/nsenter"},
        directories=directories,
        entrypoint=("/agnhost",),
        command=("pause",),
    )
    gnu_files = {**files, **_with_libraries("dd", "dd"), **_with_libraries("dash", "sh")}
    gnu = Image(
        f"{_REGISTRY}/{_GNU_NAME}",
        files=gnu_files,
        links={path: target for path, target in links.items() if path not in gnu_files},
        directories=directories,
    )
    write_archive(archive(), [*plain, gnu, agnhost])


def _with_libraries(name: str, wanted: str) -> dict[str, bytes]:
    """A program of this machine under the wanted name, with the libraries and the loader that it needs."""
    path = shutil.which(name)
    assert path is not None, f"this machine has no {name}"
    listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True, timeout=_LIST_SECONDS)
    needed = re.findall(r"(/\S+) \(0x", listed.stdout)
    return {f"bin/{wanted}": Path(path).read_bytes(), **{each.lstrip("/"): Path(each).read_bytes() for each in needed}}
