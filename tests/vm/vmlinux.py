"""The plain ELF kernel out of a bzImage: booting it skips the decompressor, which is slow under emulation."""

import lzma
import struct
import subprocess

# Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header": offsets into the file.
_SETUP_SECTS = 0x1F1
_PAYLOAD_OFFSET = 0x248
# A header that says 0 means this many.
_DEFAULT_SETUP_SECTS = 4
_SECTOR_BYTES = 512
# The build appends the unpacked size (arch/x86/boot/compressed: a little-endian u32) to the compressed stream.
_SIZE_BYTES = 4

_XZ_MAGIC = b"\xfd7zXZ\x00"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SECONDS = 60.0


def extract_vmlinux(image: bytes) -> bytes:
    """The ELF file inside ``image``; ValueError when it is not a kernel of a known compression."""
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_OFFSET)
    start = ((image[_SETUP_SECTS] or _DEFAULT_SETUP_SECTS) + 1) * _SECTOR_BYTES + offset
    payload = image[start : start + length - _SIZE_BYTES]
    if payload.startswith(_XZ_MAGIC):
        kernel = lzma.decompress(payload)
    elif payload.startswith(_ZSTD_MAGIC):
        done = subprocess.run(
            ["zstd", "--decompress", "--stdout", "--quiet"],
            input=payload,
            capture_output=True,
            check=True,
            timeout=_ZSTD_SECONDS,
        )
        kernel = done.stdout
    else:
        raise ValueError(f"the kernel image is compressed in an unknown way: {payload[:6].hex()}")
    if not kernel.startswith(b"\x7fELF"):
        raise ValueError("what is inside the kernel image is not an ELF file")
    return kernel
