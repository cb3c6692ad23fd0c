"""The YAML blocks of the pages: manifests, and values of the chart (those whose first line is ``# values``)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from tests.support.pages import PAGES, ROOT, Block, parts, read

CHART = ROOT / "charts/rds-csi"

Manifest = Mapping[str, Any]


def blocks() -> Iterator[Block]:
    """Every YAML block of every page."""
    for page in PAGES:
        yield from (block for block in parts(page, read(page)) if block.language == "yaml")


def documents(block: Block) -> Sequence[Manifest]:
    """The documents of a block; yaml.YAMLError when it cannot be read."""
    return [document for document in yaml.safe_load_all(block.text) if document is not None]


def manifests() -> Iterator[tuple[Block, Manifest]]:
    """Every manifest with the block that it is in."""
    for block in blocks():
        if not block.is_values:
            for document in documents(block):
                yield block, document


def default_values() -> Manifest:
    """The chart's own values."""
    values: Manifest = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return values


def merged(values: Manifest, others: Manifest) -> Manifest:
    """What Helm makes of its defaults and a file of values: maps are merged, all else is replaced."""
    result = dict(values)
    for key, value in others.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def set_on_command_lines() -> Iterator[tuple[str, str, str]]:
    """Page, key and value of every ``--set KEY=VALUE`` in the pages."""
    for page in PAGES:
        for key, value in re.findall(r"--set(?:-string)?[ =]([A-Za-z.]+)=(\S+)", read(page)):
            yield page, key, value


def has_key(values: Manifest, key: str) -> bool:
    """Whether ``a.b.c`` is a key of the chart's values."""
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return False
        found = found[part]
    return True
