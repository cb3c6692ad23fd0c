"""The tests of the suite that do not run, each with the reason. What is left out for no reason of these fails the lane,
and so does a reason for which nothing is left out."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Tests by a regular expression that is searched in their names."""

    names: str
    reason: str
    # Whether Ginkgo must be told; the others leave themselves out when they look at the driver's definition.
    excluded: bool = False


_NO_SSH = "it stops the kubelet over SSH; the lane restarts kubelets in test_interruptions.py"
_NO_RIGHT = "without CAP_SYS_RESOURCE, which containers do not have here, ext4 does not grow online; xfs is tested"

_ALWAYS = (
    LeftOut(r"\[Testpattern: Inline-volume", "volumes inside of a pod's manifest are for drivers in the tree"),
    LeftOut(r"CSI Ephemeral-volume", "the driver has no CSI ephemeral inline volumes; generic ephemeral ones are run"),
    LeftOut(
        r"\[Testpattern: Pre-provisioned PV",
        "with a definition file the suite cannot make volumes by itself; docs/how-to has static volumes",
    ),
    LeftOut(
        r"\((filesystem volmode|ext4|xfs)\).*two volumes with different volume mode",
        "the suite has it once, on block volumes; one of its two volumes is a filesystem",
    ),
    LeftOut(
        r"\(block volmode\)\] provisioning should provision (storage with mount options|correct filesystem)",
        "a block volume has no filesystem",
    ),
    LeftOut(r"\(block volmode\)\] provisioning should mount multiple PV", "the suite has it for filesystems only"),
    LeftOut(r"\(block volmode\).*ephemeral should create read-only inline", "a pod's block volume cannot be read-only"),
    LeftOut(
        r"(Dynamic|Pre-provisioned) Snapshot .*\(ephemeral\)|Ephemeral Snapshot .*\(persistent\)",
        "each kind of volume has one of the two tests",
    ),
    LeftOut(r"Generic Ephemeral-volume.*volumeLimits", "the suite has it for claims only"),
    LeftOut(
        r"Generic Ephemeral-volume.*\(immediate-binding\)",
        "the suite takes every driver with topology to have several segments; the same tests with late binding are run",
    ),
    LeftOut(
        r"\(filesystem volmode\).*the volume and restored snapshot",
        "the suite has no snapshots in this pattern; the same test on ext4, xfs and block volumes is run",
    ),
    LeftOut(
        r"volumegroupsnapshotclass.*multiple default classes exist",
        "the driver has no part in it: it asks whether the snapshot-controller knows a class made just before",
        excluded=True,
    ),
    LeftOut(r"\(ext3\)", "the driver makes ext4, xfs and btrfs"),
    LeftOut(r"ntfs", "a filesystem of Windows"),
    LeftOut(r"unmount if pod is .* deleted while kubelet is down", _NO_SSH),
    LeftOut(r"disruptive \[Disruptive\]", _NO_SSH),
    LeftOut(r"seLinuxMount", "no node of the lane has SELinux", excluded=True),
    LeftOut(
        r"\.io\].*capacity", "capacity is told for classes whose claims wait; that of xfs is one, and has this test"
    ),
    LeftOut(
        r"topology should fail to schedule a pod which has topologies that conflict",
        "a shared array is one topology, and the test needs two; test_claims.py has an array of one node",
    ),
    LeftOut(r"SnapshotMetadata", "the driver has no SnapshotMetadata service"),
    LeftOut(
        r"should provision storage with any volume data source",
        "it starts a volume populator from images that cannot be made here",
        excluded=True,
    ),
    LeftOut(
        r"\((default fs|filesystem volmode|ext4|xfs)\).*access the single volume from pods on different node",
        "a filesystem of one node must not be mounted on two; the same test on block volumes is run",
        excluded=True,
    ),
    LeftOut(
        r"fsgroupchangepolicy (\(OnRootMismatch|.*changed via chgrp)",
        "the driver sets the group itself (VOLUME_MOUNT_GROUP), and the kubelet then follows no policy",
    ),
)
# On ext4 alone; what the driver's name ends with is in ginkgo.FOCUS.
_GROWTH_OF_EXT4 = r"\.io\].*\(default fs\).*"
_WITHOUT_SYS_RESOURCE = tuple(
    LeftOut(_GROWTH_OF_EXT4 + names, _NO_RIGHT, excluded=True)
    for names in (r"volume-expand (Verify|should resize)", r"ephemeral should support expansion", r"larger size pvc")
)


def left_out(*, sys_resource: bool) -> tuple[LeftOut, ...]:
    """The rules for a machine with or without CAP_SYS_RESOURCE."""
    return _ALWAYS if sys_resource else _ALWAYS + _WITHOUT_SYS_RESOURCE
