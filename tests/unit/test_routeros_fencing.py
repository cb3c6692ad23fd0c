"""Which hosts a RouterOS array lets in, for each way of fencing."""

import pytest

from rds_csi.arrays.routeros.options import Fencing
from rds_csi.errors import FailedPrecondition, InvalidArgument
from rds_csi.model.volumes import AccessMode, Attachment, Node
from tests.support.routeros_arrays import array_on, attachment, spec
from tests.support.routeros_memory import MemoryDevice

ID = "pvc-a"


async def test_without_fencing_a_volume_is_exported_to_everybody_all_the_time() -> None:
    device = MemoryDevice()
    array = array_on(device)
    await array.create_volume(spec(ID))
    for call in (array.attach_volume(ID, attachment()), array.detach_volume(ID, "node-1")):
        assert device.by_slot(ID).exported
        await call
        assert device.by_slot(ID).exported
        assert device.by_slot(ID).allow_hosts == ()


async def test_with_export_fencing_the_first_attachment_exports_and_the_last_detachment_ends_it() -> None:
    device = MemoryDevice()
    array = array_on(device, fencing=Fencing.EXPORT)
    await array.create_volume(spec(ID))
    seen = [device.by_slot(ID).exported]
    for call in (
        array.attach_volume(ID, attachment("node-1")),
        array.attach_volume(ID, attachment("node-2")),
        array.detach_volume(ID, "node-1"),
        array.detach_volume(ID, "node-2"),
    ):
        await call
        seen.append(device.by_slot(ID).exported)
    assert seen == [False, True, True, True, False]


async def test_with_host_fencing_exactly_the_attached_hosts_are_let_in() -> None:
    device = MemoryDevice()
    array = array_on(device, fencing=Fencing.ALLOW_HOST)
    await array.create_volume(spec(ID))
    assert not device.by_slot(ID).exported, "an empty list of hosts lets everybody in"
    await array.attach_volume(ID, attachment("node-1", nqn="nqn.2014-08.org.x:1"))
    await array.attach_volume(ID, attachment("node-2", nqn="nqn.2014-08.org.x:2"))
    assert device.by_slot(ID).allow_hosts == ("nqn.2014-08.org.x:1", "nqn.2014-08.org.x:2")
    await array.detach_volume(ID, "node-1")
    assert device.by_slot(ID).allow_hosts == ("nqn.2014-08.org.x:2",)
    await array.detach_volume(ID, "")
    assert not device.by_slot(ID).exported


async def test_never_is_an_exported_volume_open_to_everybody_between_two_hosts() -> None:
    device = MemoryDevice()
    array = array_on(device, fencing=Fencing.ALLOW_HOST)
    await array.create_volume(spec(ID))
    for node in ("node-1", "node-2"):
        await array.attach_volume(ID, attachment(node))
        await array.detach_volume(ID, "")
        assert not device.by_slot(ID).exported
        assert device.by_slot(ID).allow_hosts


async def test_host_fencing_needs_a_host_nqn() -> None:
    array = array_on(MemoryDevice(), fencing=Fencing.ALLOW_HOST)
    assert array.traits.needs_host_nqn
    await array.create_volume(spec(ID))
    nameless = Attachment(Node("node-1"), "token", AccessMode.SINGLE_NODE_WRITER)
    with pytest.raises(InvalidArgument, match="node-1"):
        await array.attach_volume(ID, nameless)


async def test_two_nodes_with_one_host_nqn_are_refused() -> None:
    array = array_on(MemoryDevice())
    await array.create_volume(spec(ID))
    await array.attach_volume(ID, attachment("node-1", nqn="nqn.2014-08.org.x:1"))
    with pytest.raises(FailedPrecondition, match="node-1"):
        await array.attach_volume(ID, attachment("node-2", nqn="nqn.2014-08.org.x:1"))


async def test_an_export_that_somebody_switched_off_is_back_after_a_repeated_attach() -> None:
    device = MemoryDevice()
    array = array_on(device)
    await array.create_volume(spec(ID))
    await array.attach_volume(ID, attachment())
    device.change(ID, exported=False)
    await array_on(device).attach_volume(ID, attachment())
    assert device.by_slot(ID).exported
    device.change(ID, exported=False)
    # This one still remembers it as exported, and looks.
    await array.attach_volume(ID, attachment())
    assert device.by_slot(ID).exported


async def test_a_repeated_attach_of_an_attached_node_changes_nothing() -> None:
    device = MemoryDevice()
    array = array_on(device, fencing=Fencing.ALLOW_HOST)
    await array.create_volume(spec(ID))
    first = await array.attach_volume(ID, attachment())
    before = dict(device.disks)
    assert await array.attach_volume(ID, attachment()) == first
    assert device.disks == before
