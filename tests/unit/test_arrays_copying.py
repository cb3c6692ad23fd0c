"""Images made from several sources: one moment, whether they are shared or copied."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rds_csi.arrays.images.copying import Job, make_images
from rds_csi.errors import Unavailable
from rds_csi.model.sizes import MIB


def _jobs(directory: Path, count: int) -> list[Job]:
    jobs = []
    for number in range(count):
        source = directory / f"source{number}"
        source.write_bytes(bytes([number + 1]) * MIB)
        jobs.append(Job(str(directory / f"copy{number}"), MIB, os.ftruncate, str(source), MIB))
    return jobs


class Sharing:
    """A reflink that copies; while it shares the second of two sources, ``meanwhile`` happens."""

    def __init__(self, meanwhile: Callable[[int], None]) -> None:
        self.calls = 0
        self._meanwhile = meanwhile

    def __call__(self, source: int, destination: int) -> bool:
        self.calls += 1
        os.pwrite(destination, os.pread(source, MIB, 0), 0)
        self._meanwhile(self.calls)
        return True


def test_shared_images_that_a_writer_overtook_are_shared_anew(tmp_path: Path) -> None:
    jobs = _jobs(tmp_path, 2)
    flushed: list[str] = []

    def write_once(call: int) -> None:
        if call == 2:
            Path(jobs[0].source).write_bytes(b"n" * MIB)

    sharing = Sharing(write_once)
    list(make_images(jobs, flushed.append, sharing))
    assert sharing.calls == 4
    assert flushed == [jobs[0].source, jobs[1].source] * 2
    assert Path(jobs[0].destination).read_bytes() == b"n" * MIB


def test_shared_images_of_sources_that_are_always_written_are_refused(tmp_path: Path) -> None:
    jobs = _jobs(tmp_path, 2)

    def write(call: int) -> None:
        Path(jobs[0].source).write_bytes(bytes([call]) * MIB)

    with pytest.raises(Unavailable, match="Pause what writes"):
        list(make_images(jobs, lambda image: None, Sharing(write)))


def test_one_shared_image_is_one_moment_whoever_writes(tmp_path: Path) -> None:
    jobs = _jobs(tmp_path, 1)
    sharing = Sharing(lambda call: os.utime(jobs[0].source))
    list(make_images(jobs, lambda image: None, sharing))
    assert sharing.calls == 1
    assert Path(jobs[0].destination).read_bytes() == b"\1" * MIB
