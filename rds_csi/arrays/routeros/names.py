"""Names on the array: slots, NQNs, file and subvolume names, all of them functions of the id. Pure.

A slot is at most 32 characters (RouterOS 7.24), ids are up to 63. A name on the array carries a proof, so that a file
which a killed deletion left without its disk can be told from a file of somebody else (lessons, I1, I3).
"""

import base64
import hashlib
import re
from dataclasses import dataclass

from rds_csi.arrays.routeros.values import check_value, normal_path
from rds_csi.errors import ConfigurationError, InvalidArgument
from rds_csi.model.names import MAX_ID_LENGTH, check_nqn, is_id

# Characters. What RouterOS 7.24 takes; a name of exactly this length is always one with a digest.
SLOT_LENGTH = 32
_HEAD_LENGTH = 12
# Hex digits: 48 bits, which nobody hits by accident. It is no secret and no signature.
PROOF_LENGTH = 12
_SNAPSHOT = "s-"
_IMAGE = ".img"
IMAGE_IN_SUBVOLUME = "volume.img"

_OBJECT = re.compile(rf"([a-z0-9][a-z0-9-]*)\.([0-9a-f]{{{PROOF_LENGTH}}})", re.ASCII)


def slot_for(volume_id: str) -> str:
    """The slot of a volume: its id when that is at most 31 characters, else 32 characters with a digest of it.

    Distinct ids have distinct slots: no plain one has 32 characters, and the digest of the others is ≥ 95 bits. An id
    that begins like a snapshot's slot (``s-``) always gets a digest.
    """
    _check_id(volume_id)
    if len(volume_id) < SLOT_LENGTH and not volume_id.startswith(_SNAPSHOT):
        return volume_id
    return _digested(volume_id, volume_id)


def snapshot_slot_for(snapshot_id: str) -> str:
    """The slot of a snapshot: ``s-`` and its id when that fits into 31 characters, else 32 with a digest."""
    _check_id(snapshot_id)
    slot = _SNAPSHOT + snapshot_id
    # "/" is in no id: the digest is of nothing that a volume could be called.
    return slot if len(slot) < SLOT_LENGTH else _digested(slot, f"s/{snapshot_id}")


def _check_id(object_id: str) -> None:
    if not is_id(object_id):
        raise InvalidArgument(f"{object_id[:80]!r} is no id of this driver: 1 to {MAX_ID_LENGTH} of a-z 0-9 -")


def _digested(readable: str, whole: str) -> str:
    head = readable[:_HEAD_LENGTH].strip("-")
    digest = base64.b32encode(hashlib.sha256(whole.encode()).digest()).decode().lower()
    return f"{head}-{digest}"[:SLOT_LENGTH]


def proof_for(driver: str, cluster: str, object_id: str) -> str:
    """12 hex digits that say: a driver of this name in this cluster made this for that object."""
    digest = hashlib.sha256()
    for part in (driver, cluster, object_id):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(4, "big") + data)
    return digest.hexdigest()[:PROOF_LENGTH]


@dataclass(frozen=True, slots=True)
class Names:
    """How everything of one driver, cluster and pool is called on the array.

    ``pool_directory`` is the pool's mount point (``raid10``), ``base`` the directory in it (``rds-csi``); with
    ``subvolumes`` each volume is the file ``volume.img`` in a btrfs subvolume of its own. ConfigurationError when the
    prefix leaves no room for a slot in an NQN, or a directory is none.
    """

    driver: str
    cluster: str
    nqn_prefix: str
    pool_directory: str
    base: str
    subvolumes: bool = False

    def __post_init__(self) -> None:
        try:
            check_nqn(self.nqn_prefix + "x" * SLOT_LENGTH, "the NQN prefix with a slot")
            check_value(self.nqn_prefix, "the NQN prefix")
            same = (normal_path(self.pool_directory), normal_path(self.base))
        except InvalidArgument as error:
            raise ConfigurationError(str(error)) from None
        if same != (self.pool_directory, self.base):
            raise ConfigurationError(f"{self.pool_directory!r} and {self.base!r} have no slash at their ends")

    @property
    def directory(self) -> str:
        """Where the files are: ``raid10/rds-csi``."""
        return f"{self.pool_directory}/{self.base}"

    def slot(self, volume_id: str) -> str:
        """The slot of a volume's disk."""
        return slot_for(volume_id)

    def snapshot_slot(self, snapshot_id: str) -> str:
        """The slot of a snapshot's disk, which is never exported."""
        return snapshot_slot_for(snapshot_id)

    def nqn(self, volume_id: str) -> str:
        """The NQN under which a volume is exported."""
        return self.nqn_prefix + slot_for(volume_id)

    def volume_path(self, volume_id: str) -> str:
        """The file of a volume: ``<directory>/<slot>.<proof>.img``, or ``…/<slot>.<proof>/volume.img``."""
        return self._image(self._object(slot_for(volume_id), volume_id))

    def snapshot_path(self, snapshot_id: str) -> str:
        """The file of a snapshot, of the same form."""
        return self._image(self._object(snapshot_slot_for(snapshot_id), snapshot_id))

    def volume_subvolume(self, volume_id: str) -> str:
        """The name of a volume's subvolume within the filesystem: ``<base>/<slot>.<proof>``."""
        return f"{self.base}/{self._object(slot_for(volume_id), volume_id)}"

    def snapshot_subvolume(self, snapshot_id: str) -> str:
        """The name of a snapshot's subvolume within the filesystem."""
        return f"{self.base}/{self._object(snapshot_slot_for(snapshot_id), snapshot_id)}"

    def is_ours(self, path: str, object_id: str) -> bool:
        """Whether the file at ``path`` was made for that volume or snapshot by this driver in this cluster and pool.

        Either layout counts. Anything that is not exactly such a name is not ours.
        """
        if not is_id(object_id):
            return False
        parts = (self._object(slot, object_id) for slot in (slot_for(object_id), snapshot_slot_for(object_id)))
        return any(path in (self._plain(part), self._nested(part)) for part in parts)

    def object_in(self, path: str) -> tuple[str, str] | None:
        """Slot and proof in the name of a file below the directory, or of a directory or subvolume itself there; None
        when it is not called like one of ours. The proof is not checked: that takes the id (``is_ours``)."""
        prefix = f"{self.directory}/"
        if not path.startswith(prefix):
            return None
        rest = path.removeprefix(prefix)
        if rest.endswith(f"/{IMAGE_IN_SUBVOLUME}"):
            rest = rest.removesuffix(f"/{IMAGE_IN_SUBVOLUME}")
        else:
            rest = rest.removesuffix(_IMAGE)
        found = _OBJECT.fullmatch(rest)
        return (found[1], found[2]) if found and len(found[1]) <= SLOT_LENGTH else None

    def _object(self, slot: str, object_id: str) -> str:
        return f"{slot}.{proof_for(self.driver, self.cluster, object_id)}"

    def _image(self, part: str) -> str:
        return self._nested(part) if self.subvolumes else self._plain(part)

    def _plain(self, part: str) -> str:
        return f"{self.directory}/{part}{_IMAGE}"

    def _nested(self, part: str) -> str:
        return f"{self.directory}/{part}/{IMAGE_IN_SUBVOLUME}"
