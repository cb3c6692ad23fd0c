"""Random lives of volumes, snapshots and groups, compared with a model that keeps whole contents in memory."""

import asyncio
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from rds_csi.arrays.local import LocalArray, open_array
from rds_csi.arrays.protocol import ArrayOptions
from rds_csi.errors import NotFound
from rds_csi.model.host import HostPaths
from rds_csi.model.parameters import Provisioning
from rds_csi.model.sizes import MIB
from rds_csi.model.volumes import ContentSource, SourceKind, VolumeSpec
from rds_csi.process import ProcessRunner
from rds_csi.workers import Workers

IDS = st.sampled_from(["a", "b", "c"])
PROVISIONING = st.sampled_from(list(Provisioning))


class ArrayMachine(RuleBasedStateMachine):
    """Every rule does the same to the array and to the model, and compares what both answer."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.volumes: dict[str, bytes] = {}
        self.snapshots: dict[str, bytes] = {}
        self.groups: dict[str, dict[str, bytes]] = {}
        self.array = self.open()

    def open(self) -> LocalArray:
        options = ArrayOptions(ProcessRunner(), Workers(), HostPaths(str(self.place / "host")), "nqn.2026-01.io.x:")
        array = open_array(f"local://{self.place}/array", options)
        self.runner.run(array.start())
        return array

    def image(self, kind: str, name: str) -> Path:
        return self.place / "array" / kind / f"{name}.img"

    def create(self, spec: VolumeSpec, content: bytes) -> None:
        volume = self.runner.run(self.array.create_volume(spec))
        if spec.volume_id not in self.volumes:
            self.volumes[spec.volume_id] = content.ljust(spec.size, b"\0")
        assert volume.size == len(self.volumes[spec.volume_id])

    @rule(volume_id=IDS, size=st.integers(1, 3), provisioning=PROVISIONING)
    def create_volume(self, volume_id: str, size: int, provisioning: Provisioning) -> None:
        self.create(VolumeSpec(volume_id, volume_id, size * MIB, provisioning), b"")

    @rule(volume_id=IDS, source_id=IDS, more=st.integers(0, 2), provisioning=PROVISIONING)
    def clone(self, volume_id: str, source_id: str, more: int, provisioning: Provisioning) -> None:
        content = self.volumes.get(source_id)
        spec = VolumeSpec(
            volume_id,
            volume_id,
            len(content or b"") + more * MIB or MIB,
            provisioning,
            source=ContentSource(SourceKind.VOLUME, source_id),
        )
        if content is not None or volume_id in self.volumes:
            self.create(spec, content or b"")
        else:
            self.absent(spec)

    @rule(volume_id=IDS, snapshot_id=IDS, more=st.integers(0, 2), provisioning=PROVISIONING)
    def restore(self, volume_id: str, snapshot_id: str, more: int, provisioning: Provisioning) -> None:
        content = self.snapshots.get(snapshot_id)
        spec = VolumeSpec(
            volume_id,
            volume_id,
            len(content or b"") + more * MIB or MIB,
            provisioning,
            source=ContentSource(SourceKind.SNAPSHOT, snapshot_id),
        )
        if content is not None or volume_id in self.volumes:
            self.create(spec, content or b"")
        else:
            self.absent(spec)

    def absent(self, spec: VolumeSpec) -> None:
        try:
            self.runner.run(self.array.create_volume(spec))
        except NotFound:
            return
        raise AssertionError("a volume was made from nothing")

    @rule(volume_id=IDS, offset=st.integers(0, 3 * MIB), byte=st.integers(1, 255), length=st.integers(1, 100_000))
    def write(self, volume_id: str, offset: int, byte: int, length: int) -> None:
        content = self.volumes.get(volume_id)
        if content is None:
            return
        data = bytes([byte]) * max(0, min(length, len(content) - offset))
        with self.image("volumes", volume_id).open("r+b") as stream:
            stream.seek(offset)
            stream.write(data)
        self.volumes[volume_id] = content[:offset] + data + content[offset + len(data) :] if data else content

    @rule(volume_id=IDS, size=st.integers(1, 4))
    def expand(self, volume_id: str, size: int) -> None:
        content = self.volumes.get(volume_id)
        if content is not None:
            self.runner.run(self.array.expand_volume(volume_id, size * MIB))
            self.volumes[volume_id] = content.ljust(size * MIB, b"\0")

    @rule(volume_id=IDS)
    def delete_volume(self, volume_id: str) -> None:
        self.runner.run(self.array.delete_volume(volume_id))
        self.volumes.pop(volume_id, None)

    @rule(snapshot_id=IDS, volume_id=IDS)
    def snapshot(self, snapshot_id: str, volume_id: str) -> None:
        if volume_id in self.volumes:
            self.runner.run(self.array.create_snapshot(snapshot_id, snapshot_id, volume_id))
            self.snapshots.setdefault(snapshot_id, self.volumes[volume_id])

    @rule(snapshot_id=IDS)
    def delete_snapshot(self, snapshot_id: str) -> None:
        self.runner.run(self.array.delete_snapshot(snapshot_id))
        self.snapshots.pop(snapshot_id, None)

    @rule(group_id=st.sampled_from(["g1", "g2"]), volume_ids=st.lists(IDS, min_size=1, max_size=3))
    def group(self, group_id: str, volume_ids: list[str]) -> None:
        if set(volume_ids) <= set(self.volumes):
            self.runner.run(self.array.create_group(group_id, group_id, volume_ids))
            self.groups.setdefault(group_id, {name: self.volumes[name] for name in volume_ids})

    @rule(group_id=st.sampled_from(["g1", "g2"]))
    def delete_group(self, group_id: str) -> None:
        self.runner.run(self.array.delete_group(group_id))
        self.groups.pop(group_id, None)

    @rule()
    def restart(self) -> None:
        self.runner.run(self.array.close())
        self.array = self.open()

    @invariant()
    def lists_agree(self) -> None:
        volumes = self.runner.run(self.array.list_volumes())
        assert {item.volume_id: item.size for item in volumes} == {
            name: len(content) for name, content in self.volumes.items()
        }
        snapshots = self.runner.run(self.array.list_snapshots())
        assert {item.snapshot_id for item in snapshots if not item.group_id} == set(self.snapshots)
        assert {item.group_id for item in snapshots if item.group_id} == set(self.groups)

    def contents_agree(self) -> None:
        for name, content in self.volumes.items():
            assert self.image("volumes", name).read_bytes() == content
        for name, content in self.snapshots.items():
            assert self.image("snapshots", name).read_bytes() == content
        for group_id, members in self.groups.items():
            for volume_id, content in members.items():
                assert self.image("snapshots", f"{group_id}-{volume_id}").read_bytes() == content

    def teardown(self) -> None:
        try:
            self.contents_agree()
        finally:
            self.runner.run(self.array.close())
            self.runner.close()
            shutil.rmtree(self.place)


def test_array_agrees_with_the_model_whatever_comes() -> None:
    run_state_machine_as_test(
        ArrayMachine,
        settings=settings(
            max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
