"""The tests of the suite that do not run, each with the reason. What is left out for no reason of these fails the lane,
and so does a reason by which nothing is left out, or a test that leaves itself out in other words than its reason."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Tests by a regular expression that is searched in their names.

    ``says`` is searched in what they say when they leave themselves out, mostly of the driver's definition; with ""
    Ginkgo must be told, and says nothing.
    """

    names: str
    reason: str
    says: str = ""

    @property
    def excluded(self) -> bool:
        """Whether Ginkgo must be told."""
        return not self.says

    def explains(self, name: str, message: str) -> bool:
        """Whether this is why the test did not run."""
        if not re.search(self.names, name):
            return False
        return not message if self.excluded else re.search(self.says, message) is not None


_NO_SSH = "it stops the kubelet over SSH; the lane restarts kubelets in test_interruptions.py"
_SAYS_NO_SSH = "No SSH Key"
_NO_RIGHT = "without CAP_SYS_RESOURCE, which containers do not have here, ext4 does not grow online; xfs is tested"

_ALWAYS = (
    LeftOut(
        r"\[Testpattern: Inline-volume",
        "volumes inside of a pod's manifest are for drivers in the tree",
        says='not support volume type "InlineVolume"',
    ),
    LeftOut(
        r"CSI Ephemeral-volume",
        "the driver has no CSI ephemeral inline volumes; generic ephemeral ones are run",
        says='not support volume type "CSIInlineVolume"',
    ),
    LeftOut(
        r"\[Testpattern: Pre-provisioned PV",
        "with a definition file the suite cannot make volumes by itself; docs/how-to has static volumes",
        says='not support volume type "PreprovisionedPV"',
    ),
    LeftOut(
        r"\((filesystem volmode|ext4|xfs)\).*two volumes with different volume mode",
        "the suite has it once, on block volumes; one of its two volumes is a filesystem",
        says="should be covered by block volume case",
    ),
    LeftOut(
        r"\(block volmode\)\] provisioning should provision (storage with mount options|correct filesystem)",
        "a block volume has no filesystem",
        says="not valid for Block volume mode|Block volumes do not support mount options",
    ),
    LeftOut(
        r"\(block volmode\)\] provisioning should mount multiple PV",
        "the suite has it for filesystems only",
        says="test for block mode",
    ),
    LeftOut(
        r"\(block volmode\).*ephemeral should create read-only inline",
        "a pod's block volume cannot be read-only",
        says="raw block volumes cannot be read-only",
    ),
    LeftOut(
        r"(Dynamic|Pre-provisioned) Snapshot .*\(ephemeral\)|Ephemeral Snapshot .*\(persistent\)",
        "each kind of volume has one of the two tests",
        says="is not ephemeral|is ephemeral",
    ),
    LeftOut(
        r"Generic Ephemeral-volume.*volumeLimits",
        "the suite has it for claims only",
        says='Suite "volumeLimits" does not support',
    ),
    LeftOut(
        r"Generic Ephemeral-volume.*\(immediate-binding\)",
        "the suite takes every driver with topology to have several segments; the same tests with late binding are run",
        says="multi-topology environment|separate topology segments",
    ),
    LeftOut(
        r"\(filesystem volmode\).*the volume and restored snapshot",
        "the suite has no snapshots in this pattern; the same test on ext4, xfs and block volumes is run",
        says="does not support snapshots",
    ),
    LeftOut(
        r"volumegroupsnapshotclass.*multiple default classes exist",
        "the driver has no part in it: it asks whether the snapshot-controller knows a class made just before",
    ),
    LeftOut(r"\(ext3\)", "the driver makes ext4, xfs and btrfs", says="doesn't support ext3"),
    LeftOut(r"ntfs", "a filesystem of Windows", says="doesn't support ntfs"),
    LeftOut(r"unmount if pod is .* deleted while kubelet is down", _NO_SSH, says=_SAYS_NO_SSH),
    LeftOut(r"disruptive \[Disruptive\]", _NO_SSH, says=_SAYS_NO_SSH),
    LeftOut(r"seLinuxMount", "no node of the lane has SELinux"),
    LeftOut(
        r"\.io\].*capacity",
        "capacity is told for classes whose claims wait; that of xfs is one, and has this test",
        says="doesn't publish storage capacity",
    ),
    LeftOut(
        r"topology should fail to schedule a pod which has topologies that conflict",
        "a shared array is one topology, and the test needs two; test_claims.py has an array of one node",
        says="Not enough topologies",
    ),
    LeftOut(
        r"SnapshotMetadata", "the driver has no SnapshotMetadata service", says="does not support snapshot metadata"
    ),
    LeftOut(
        r"should provision storage with any volume data source",
        "it starts a volume populator from images that cannot be made here",
    ),
    LeftOut(
        r"\((default fs|filesystem volmode|ext4|xfs)\).*access the single volume from pods on different node",
        "a filesystem of one node must not be mounted on two; the same test on block volumes is run",
    ),
    LeftOut(
        r"fsgroupchangepolicy (\(OnRootMismatch|.*changed via chgrp)",
        "the driver sets the group itself (VOLUME_MOUNT_GROUP), and the kubelet then follows no policy",
        says="supports VolumeMountGroup",
    ),
)
# On ext4 alone; what the driver's name ends with is in ginkgo.FOCUS.
_GROWTH_OF_EXT4 = r"\.io\].*\(default fs\).*"
_WITHOUT_SYS_RESOURCE = tuple(
    LeftOut(_GROWTH_OF_EXT4 + names, _NO_RIGHT)
    for names in (r"volume-expand (Verify|should resize)", r"ephemeral should support expansion", r"larger size pvc")
)


def left_out(*, sys_resource: bool) -> tuple[LeftOut, ...]:
    """The rules for a machine with or without CAP_SYS_RESOURCE."""
    return _ALWAYS if sys_resource else _ALWAYS + _WITHOUT_SYS_RESOURCE
