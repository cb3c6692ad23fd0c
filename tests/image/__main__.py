"""``python -m tests.image``: build the image where the cached one is not of these sources, and print what it is."""

import sys
import tempfile
from pathlib import Path

from tests.image.archive import Archive
from tests.image.base import BuildError
from tests.image.build import cache_directory, ready_image
from tests.image.packages import debian_packages, python_packages, write_bill

MB = 1_000_000


def main() -> int:
    """Exit status 1 when it could not be built."""
    try:
        image = ready_image()
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    describe(image, cache_directory() / "rds-csi.cdx.json")
    return 0


def describe(image: Archive, bill: Path) -> None:
    """Print name, digest and sizes, write the SBOM to ``bill`` and print what it lists."""
    unpacked = sum(member.size for member in image.members() if member.isfile())
    print(f"image: {image.path}, {image.digest}")
    print(f"size: {unpacked / MB:.0f} MB unpacked, {image.packed_bytes / MB:.0f} MB packed")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        image.unpack(root)
        write_bill(root, image.container["Labels"]["org.opencontainers.image.version"], image.digest, bill)
        print(f"SBOM: {bill} (CycloneDX)")
        for kind, packages in (("Debian", debian_packages(root)), ("Python", python_packages(root))):
            print(f"{len(packages)} {kind} packages:")
            for package in packages:
                print(f"  {package.name} {package.version}")


if __name__ == "__main__":
    sys.exit(main())
