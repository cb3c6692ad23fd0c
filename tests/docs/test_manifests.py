"""Every manifest and every value in the pages is one that Kubernetes, the chart and the driver take."""

import json
import re
from collections import defaultdict

import jsonschema
import kubernetes_validate
import pytest

from rds_csi.model.mounts import FILESYSTEMS
from rds_csi.model.names import DEFAULT_DRIVER_NAME, is_id
from rds_csi.model.parameters import VolumeParameters, parse_mutable
from rds_csi.model.targets import target_from_context
from tests.docs.manifests import (
    CHART,
    Manifest,
    blocks,
    default_values,
    documents,
    has_key,
    manifests,
    merged,
    set_on_command_lines,
)
from tests.support.pages import PAGES, Block, read

# The release of Kubernetes whose schemas are used: that of the cluster lane.
KUBERNETES = "1.36"
# Of these there are schemas in the cluster only.
CUSTOM = "snapshot.storage.k8s.io"
# The StorageClass that the quickstart makes.
STORAGE_CLASS = "rds-csi"

ALL = list(manifests())
VALUES = [block for block in blocks() if block.is_values]


def of_kind(kind: str) -> list[tuple[Block, Manifest]]:
    return [(block, manifest) for block, manifest in ALL if manifest["kind"] == kind]


def shown(value: object) -> str:
    return str(value) if isinstance(value, Block) else ""


def test_there_are_manifests_for_every_how_to_page_that_needs_some() -> None:
    pages = {block.page.rpartition("/")[2] for block, _ in ALL}
    assert pages >= {
        *("static-volumes.md", "block-volumes.md", "snapshots.md", "clone.md", "growth.md"),
        *("volume-attributes-class.md", "quickstart.md"),
    }
    assert len(ALL) >= 14
    assert VALUES


@pytest.mark.parametrize("block", list(blocks()), ids=shown)
def test_a_block_can_be_read(block: Block) -> None:
    assert documents(block)


@pytest.mark.parametrize(("block", "manifest"), ALL, ids=shown)
def test_a_manifest_is_whole_and_what_kubernetes_takes(block: Block, manifest: Manifest) -> None:
    assert manifest["metadata"]["name"]
    if not manifest["apiVersion"].startswith(CUSTOM):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize(("block", "manifest"), of_kind("StorageClass"), ids=shown)
def test_a_storage_class_is_one_of_this_driver_with_parameters_that_it_takes(block: Block, manifest: Manifest) -> None:
    assert manifest["provisioner"] == DEFAULT_DRIVER_NAME
    VolumeParameters.parse(manifest.get("parameters", {}))


@pytest.mark.parametrize(("block", "manifest"), of_kind("VolumeAttributesClass"), ids=shown)
def test_a_volume_attributes_class_has_parameters_that_can_be_changed(block: Block, manifest: Manifest) -> None:
    assert manifest["driverName"] == DEFAULT_DRIVER_NAME
    assert parse_mutable(manifest["parameters"]) == manifest["parameters"]


@pytest.mark.parametrize(("block", "manifest"), of_kind("VolumeSnapshotClass"), ids=shown)
def test_a_snapshot_class_is_one_of_this_driver(block: Block, manifest: Manifest) -> None:
    assert manifest["driver"] == DEFAULT_DRIVER_NAME


@pytest.mark.parametrize(("block", "manifest"), of_kind("PersistentVolume"), ids=shown)
def test_a_static_volume_has_a_target_that_a_node_can_read(block: Block, manifest: Manifest) -> None:
    source = manifest["spec"]["csi"]
    assert source["driver"] == DEFAULT_DRIVER_NAME
    assert is_id(source["volumeHandle"])
    assert source["fsType"] in FILESYSTEMS
    target_from_context(source["volumeAttributes"])


def test_claims_name_a_class_that_the_pages_make() -> None:
    made = {"", STORAGE_CLASS, *(manifest["metadata"]["name"] for _, manifest in of_kind("StorageClass"))}
    for block, manifest in of_kind("PersistentVolumeClaim"):
        assert manifest["spec"]["storageClassName"] in made, block
    assert any(item["name"] == STORAGE_CLASS for block in VALUES for item in values_of(block).get("storageClasses", []))


def test_pods_name_claims_of_their_page() -> None:
    claims: dict[str, set[str]] = defaultdict(set)
    for block, manifest in of_kind("PersistentVolumeClaim"):
        claims[block.page].add(manifest["metadata"]["name"])
    for block, manifest in of_kind("Pod"):
        for volume in manifest["spec"]["volumes"]:
            assert volume["persistentVolumeClaim"]["claimName"] in claims[block.page], block


def values_of(block: Block) -> Manifest:
    (only,) = documents(block)
    return only


@pytest.mark.parametrize("block", VALUES, ids=shown)
def test_values_are_taken_by_the_schema_of_the_chart(block: Block) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(merged(default_values(), values_of(block)), schema)


def test_a_misspelt_value_is_refused_by_the_schema_of_the_chart() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(merged(default_values(), {"array": {"uri": "local:///srv"}}), schema)


def test_what_is_set_on_a_command_line_is_a_value_of_the_chart() -> None:
    known = default_values()
    assert [(page, key) for page, key, _ in set_on_command_lines() if not has_key(known, key)] == []


@pytest.mark.parametrize("page", PAGES)
def test_values_that_the_text_names_are_there(page: str) -> None:
    known = default_values()
    nested = "|".join(key for key, value in known.items() if isinstance(value, dict))
    told = re.findall(rf"`((?:{nested})\.[A-Za-z.]+)(?:: [^`]*)?`", read(page))
    # Files are named in the same way.
    assert [key for key in told if not has_key(known, key) and not key.endswith((".py", ".md", ".toml"))] == []
