"""Whoever builds the same sources on the same base gets the same image."""

from pathlib import Path

import pytest

from tests.image.archive import Archive
from tests.image.build import build_image

BUILD_SECONDS = 2400


@pytest.mark.timeout(BUILD_SECONDS)
def test_two_builds_give_the_same_digest(image: Archive, tmp_path: Path) -> None:
    again = build_image(tmp_path / "again.tar")
    assert again.digest == image.digest
