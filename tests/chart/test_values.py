"""values.yaml, its schema and the README: each value is described once, checked, used, and refused when it is wrong."""

import json
import re
from collections.abc import Iterator, Mapping

import pytest
import yaml

from tests.chart import readme
from tests.chart.changes import CHANGES, Change
from tests.chart.helm import CHART, VALUES, nested, refusal, render, tree
from tests.chart.refused import BY_SCHEMA, TOGETHER

_IMAGE = VALUES / "defaults.yaml"
_DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
_SCHEMA = json.loads((CHART / "values.schema.json").read_text())
# Kubernetes' own objects, handed on as they are: the API server checks them.
_HANDED_ON = {
    *("nodeAffinity", "podAffinity", "podAntiAffinity", "labelSelector", "valueFrom", "seLinuxOptions"),
    *("appArmorProfile", "podSelector", "namespaceSelector", "ipBlock", "global"),
}


def _resolved(schema: Mapping[str, object]) -> Mapping[str, object]:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    definition = _SCHEMA["definitions"][str(reference).removeprefix("#/definitions/")]
    assert isinstance(definition, dict)
    return definition


def _leaves(schema: Mapping[str, object], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every path that the schema lets be set, down to free mappings, lists and plain values."""
    resolved = _resolved(schema)
    properties = resolved.get("properties")
    if not isinstance(properties, dict):
        yield prefix
        return
    for name, item in properties.items():
        yield from _leaves(item, (*prefix, name))


def _schemas(schema: object, name: str = "") -> Iterator[tuple[str, Mapping[str, object]]]:
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield name, schema
        for key, item in schema.items():
            yield from _schemas(item, key)
    elif isinstance(schema, list):
        for item in schema:
            yield from _schemas(item, name)


def test_every_value_is_described_once() -> None:
    names = [value.name for value in readme.read_values()]
    assert len(names) == len(set(names))
    described = {value.path for value in readme.read_values()}
    # A section has no description of its own, and then every value below it has one.
    for path, value in nested(_DEFAULTS):
        inside = any(path[: len(item)] == item for item in described)
        is_section = any(item[: len(path)] == path for item in described) and isinstance(value, dict)
        assert inside or is_section, ".".join(path)


def test_descriptions_are_sentences() -> None:
    for value in readme.read_values():
        assert value.description.endswith("."), value.name
        assert value.description[0].isupper() or value.description[0] == "`", value.name


def test_the_schema_knows_every_value_and_no_other() -> None:
    described = {value.path for value in readme.read_values()}
    known = set(_leaves(_SCHEMA)) - {("global",)}
    for path in described:
        assert any(item[: len(path)] == path for item in known), f"not in the schema: {'.'.join(path)}"
    for path in known:
        assert any(path[: len(item)] == item for item in described), f"not in values.yaml: {'.'.join(path)}"


def test_the_schema_refuses_typos_everywhere() -> None:
    for name, schema in _schemas(_SCHEMA):
        if name in _HANDED_ON or schema == {"type": "object"}:
            continue
        assert "additionalProperties" in schema, name
        assert schema["additionalProperties"] is not True, name


def test_the_readme_is_made_from_the_values() -> None:
    assert readme.README.read_text() == readme.made(), "re-make it by `nox -s chart -- --write`"


def test_templates_use_only_values_that_there_are() -> None:
    there = {path for path, _ in nested(_DEFAULTS)}
    for file in sorted((CHART / "templates").iterdir()):
        for match in re.finditer(r"\.Values((?:\.\w+)+)", file.read_text()):
            path = tuple(match[1].strip(".").split("."))
            assert path in there, f"{file.name}: .Values{match[1]}"


def test_every_value_has_a_change_to_try() -> None:
    assert {value.name for value in readme.read_values()} == set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_every_value_changes_what_is_rendered(name: str) -> None:
    change: Change = CHANGES[name]
    given = VALUES / f"{change.beside}.yaml"
    before = render(given, change.given)
    after = render(given, change.given, tree(name.split("."), change.value))
    assert before != after


@pytest.mark.parametrize(
    ("values", "words"), BY_SCHEMA, ids=lambda item: json.dumps(item) if isinstance(item, dict) else ""
)
def test_a_wrong_value_is_refused_by_its_name(values: dict[str, object], words: tuple[str, ...]) -> None:
    message = refusal(_IMAGE, values)
    assert "values don't meet the specifications of the schema" in message
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    ("values", "words"), TOGETHER, ids=lambda item: json.dumps(item) if isinstance(item, dict) else ""
)
def test_values_that_do_not_go_together_are_refused(values: dict[str, object], words: tuple[str, ...]) -> None:
    message = refusal(_IMAGE, values)
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize("repository", ["rds-csi", "localhost:5000/rds-csi", "registry.example.org:8443/a/b/rds-csi"])
def test_a_registry_may_have_a_port(repository: str) -> None:
    assert f'image: "{repository}:' in render(_IMAGE, {"image": {"repository": repository}})
