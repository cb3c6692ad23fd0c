"""The images of the lane's pods, made on this machine: busybox, the sandbox's pause, and one for each sidecar."""

import os
from pathlib import Path

from tests.cluster import debian, programs
from tests.cluster.oci import Image, write_archive
from tests.image.build import ready_image

REGISTRY = "localhost/rds-csi-lane"
BUSYBOX = f"{REGISTRY}/busybox:1"
PAUSE = f"{REGISTRY}/pause:1"

# As few as tests use.
_APPLETS = (
    *("blockdev", "cat", "cp", "dd", "df", "echo", "env", "false", "find", "grep", "head", "id", "ln", "ls", "mkdir"),
    *("mount", "mv", "ps", "rm", "sed", "sh", "sha256sum", "sleep", "stat", "sync", "tail", "test", "touch", "true"),
    *("tr", "umount", "wc"),
)


def sidecar(name: str) -> str:
    """The reference of a sidecar's image; its tag is the version in go.mod."""
    modules = {
        "csi-provisioner": "external-provisioner/v6",
        "csi-attacher": "external-attacher/v4",
        "csi-resizer": "external-resizer/v2",
        "csi-snapshotter": "external-snapshotter/v8",
        "snapshot-controller": "external-snapshotter/v8",
    }
    return f"{REGISTRY}/{name}:{programs.module_version(f'github.com/kubernetes-csi/{modules[name]}')}"


def driver_image() -> Path:
    """The driver's image as an OCI archive: that of these sources, built when it is not there, or $DRIVER_IMAGE."""
    if chosen := os.environ.get("DRIVER_IMAGE"):
        return Path(chosen)
    return ready_image().path


def archive() -> Path:
    """The archive that ``write_lane_images`` has made."""
    return programs.home() / "images.tar"


def write_lane_images() -> None:
    """Make the archive unless it is there."""
    if archive().exists():
        return
    write_archive(archive(), [_tools_image(BUSYBOX), _tools_image(PAUSE), *map(_sidecar_image, programs.SIDECARS)])


def _tools_image(name: str) -> Image:
    """busybox that waits: also what holds a pod's namespaces."""
    return Image(
        name,
        files={
            "bin/busybox": debian.tool("busybox").read_bytes(),
            "etc/passwd": b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
            "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
        },
        links={f"bin/{applet}": "busybox" for applet in _APPLETS},
        directories=("bin", "data", "dev", "etc", "proc", "sys", "tmp"),
        command=("tail", "-f", "/dev/null"),
    )


def _sidecar_image(name: str) -> Image:
    return Image(sidecar(name), files={name: programs.program(name).read_bytes()}, entrypoint=(f"/{name}",))
