"""Names and ids: which strings of a request may reach a path, a program or an array.

CSI 1.13 limits names and ids to 128 bytes ("Size Limits"); Kubernetes' names are mapped to ids by the one
rule of ``id_for_name``.
"""

import hashlib
import re

from rds_csi.errors import InvalidArgument

# The driver's name in a cluster, unless another is chosen.
DEFAULT_DRIVER_NAME = "rds.csi.rds-csi.io"
# CSI 1.13, "Size Limits": string fields are at most 128 bytes, unless the field says otherwise.
MAX_NAME_BYTES = 128
# CSI 1.13, NodeGetInfoResponse.node_id: at most 256 bytes.
MAX_NODE_ID_BYTES = 256
# NVMe Base Specification 2.0, section 4.7: an NQN is at most 223 bytes.
MAX_NQN_BYTES = 223
# Ids stay short enough for an NQN with a long prefix, a file name with a suffix, and a DNS label.
MAX_ID_LENGTH = 63

_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", re.ASCII)
_NQN = re.compile(r"nqn\.[0-9]{4}-[0-9]{2}\.[a-zA-Z0-9.-]+(?::[!-~]+)?", re.ASCII)
_DIGEST_LENGTH = 16


def check_name(name: str, field: str) -> str:
    """``name`` itself, when it is a CSI name: not empty, ≤ 128 bytes, no control characters."""
    if not name:
        raise InvalidArgument(f"{field} is missing")
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise InvalidArgument(f"{field} is longer than {MAX_NAME_BYTES} bytes")
    if any(not character.isprintable() for character in name):
        raise InvalidArgument(f"{field} has control characters: {name!r}")
    return name


def check_node_id(node_id: str) -> str:
    """``node_id`` itself, when it may name a node: not empty, ≤ 256 bytes, printable, no blanks."""
    if not node_id:
        raise InvalidArgument("node_id is missing")
    if len(node_id.encode("utf-8", "surrogatepass")) > MAX_NODE_ID_BYTES:
        raise InvalidArgument(f"node_id is longer than {MAX_NODE_ID_BYTES} bytes")
    if any(not character.isprintable() or character.isspace() for character in node_id):
        raise InvalidArgument(f"node_id has blanks or control characters: {node_id!r}")
    return node_id


def is_id(text: str) -> bool:
    """Whether ``text`` could be an id that this driver gave: 1 to 63 of ``[a-z0-9-]``."""
    return len(text) <= MAX_ID_LENGTH and _ID.fullmatch(text) is not None


def id_for_name(name: str) -> str:
    """The id of the volume, snapshot or group called ``name``: stable, safe, ≤ 63 of ``[a-z0-9-]``.

    A name that is such an id already (Kubernetes' ``pvc-<uuid>``) is kept. Any other is lowered, cleaned and
    ended with a digest of the whole name, so that names which differ only in what was cleaned stay apart.
    """
    if is_id(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
    cleaned = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"{cleaned[: MAX_ID_LENGTH - _DIGEST_LENGTH - 1].strip('-') or 'x'}-{digest}"


def check_nqn(nqn: str, field: str = "nqn") -> str:
    """``nqn`` itself, when it is an NVMe qualified name (NVMe Base Specification 2.0, section 4.7)."""
    if len(nqn.encode("utf-8", "surrogatepass")) > MAX_NQN_BYTES or not _NQN.fullmatch(nqn):
        raise InvalidArgument(
            f"{field} is not an NVMe qualified name: {nqn!r}",
            remedy=f"It reads nqn.yyyy-mm.reverse.domain:name, at most {MAX_NQN_BYTES} printable bytes.",
        )
    return nqn
