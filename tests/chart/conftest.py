"""Renderings that many tests look at."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chart.helm import VALUES, Object, objects, render

Rendered = Callable[[str], list[Object]]


@functools.cache
def _rendered(path: Path) -> tuple[Object, ...]:
    return tuple(objects(render(path)))


@pytest.fixture
def rendered() -> Rendered:
    """The objects of a value file, by its name without ``.yaml``."""
    return lambda name: list(_rendered(VALUES / f"{name}.yaml"))
