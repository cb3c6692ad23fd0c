"""docs/writing-a-backend.md has all of the protocol, and the example is as the guide says."""

import inspect
import re
import tomllib
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from rds_csi import errors
from rds_csi.arrays.protocol import Array, ArrayOptions, ArrayTraits, Feature
from rds_csi.model.volumes import Attachment, Volume

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/writing-a-backend.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples/array-directory"
EXAMPLES = sorted((ROOT / "examples").iterdir())


def section(title: str) -> str:
    return GUIDE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def methods() -> list[str]:
    """As the guide writes them: ``delete_volume(volume_id)``."""
    found = []
    for name, member in inspect.getmembers(Array, inspect.isfunction):
        if not name.startswith("_"):
            names = [parameter for parameter in inspect.signature(member).parameters if parameter != "self"]
            found.append(f"{name}({', '.join(names)})")
    return found


@pytest.mark.parametrize("method", methods())
def test_the_guide_has_every_method(method: str) -> None:
    assert f"\n| `{method}` | " in section("The methods")


def test_the_guide_has_no_method_that_is_not_there() -> None:
    assert set(re.findall(r"^\| `(\w+\([^`]*\))` \|", section("The methods"), re.MULTILINE)) == set(methods())


def test_the_guide_has_every_feature() -> None:
    names = {feature.name for feature in Feature}
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", section("Features"), re.MULTILINE)) == names


def test_the_guide_has_every_error() -> None:
    told = set(re.findall(r"^\| `(\w+)` \|", section("Errors"), re.MULTILINE))
    assert told == {kind.__name__ for kind in errors.DriverError.__subclasses__()}


def test_the_guide_has_every_field_that_an_array_is_given_or_tells() -> None:
    told = {
        ArrayOptions: section("Opening the array"),
        ArrayTraits: section("The methods"),
        Volume: section("Volumes"),
        Attachment: section("Attachments"),
    }
    for kind, text in told.items():
        assert [field.name for field in fields(kind) if not re.search(rf"\b{field.name}\b", text)] == [], kind


def test_every_name_that_a_backend_can_use_is_there() -> None:
    rows = re.findall(r"^\| `(rds_csi[\w.]+)` \| (.*) \|$", section("What you can use"), re.MULTILINE)
    assert len(rows) > 8
    for module, text in rows:
        for name in re.findall(r"`(\w+)`", text):
            assert hasattr(import_module(module), name), f"{module}.{name}"


def test_the_example_is_packaged_as_the_guide_says() -> None:
    (shown,) = re.findall(r"^```toml\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    told, real = tomllib.loads(shown), tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))
    assert told["build-system"] == real["build-system"]
    assert told["tool"] == real["tool"]
    assert told["project"].items() <= real["project"].items()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_uses_only_what_the_guide_names(example: Path) -> None:
    named = set(re.findall(r"`(rds_csi\.[\w.]+)`", GUIDE))
    used = {
        module
        for path in example.rglob("*.py")
        for module in re.findall(r"^from (rds_csi\.[\w.]+) import", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert used
    assert used <= named
