"""Helm as the tests use it: values in, Kubernetes objects or a refusal out. No cluster is asked."""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import yaml

CHART = Path(__file__).parents[2] / "charts" / "rds-csi"
VALUES = Path(__file__).parent / "values"

# Without it Helm takes the Kubernetes of its own libraries, which is another one with every release of Helm.
KUBE_VERSION = "1.36.0"
NAMESPACE = "storage"
RELEASE = "rds-csi"

# A rendering takes 0.2 s.
_SECONDS = 60.0

Object: TypeAlias = dict[str, object]


class HelmError(Exception):
    """Helm has refused; the text is what it says."""


def program(variable: str) -> str:
    """The path in the environment variable, which the lane sets; RuntimeError without it."""
    path = os.environ.get(variable, "")
    if not path:
        raise RuntimeError(f"{variable} is not set: run these tests by `nox -s chart`")
    return path


def value_files() -> list[Path]:
    """Every value file of the lane."""
    return sorted(VALUES.glob("*.yaml"))


def run(*arguments: str) -> str:
    """What Helm prints. HelmError when it fails."""
    # Nothing of the person's own Helm is used or changed.
    with tempfile.TemporaryDirectory() as home:
        environment = {
            name: f"{home}/{name.lower()}" for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
        }
        completed = subprocess.run(
            [program("HELM"), *arguments],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env={"PATH": os.environ.get("PATH", ""), "HOME": home, **environment},
        )
    if completed.returncode != 0:
        raise HelmError(completed.stderr)
    return completed.stdout


def render(
    *values: Path | Mapping[str, object],
    kube_version: str = KUBE_VERSION,
    apis: Sequence[str] = (),
    chart: Path = CHART,
) -> str:
    """The manifests of the chart with these values, the last of which win. HelmError when they are refused."""
    with tempfile.TemporaryDirectory() as scratch:
        flags = []
        for number, item in enumerate(values):
            path = item
            if not isinstance(path, Path):
                path = Path(scratch) / f"{number}.yaml"
                path.write_text(yaml.safe_dump(item))
            flags.append(f"--values={path}")
        flags += [f"--api-versions={api}" for api in apis]
        return run(
            "template", RELEASE, str(chart), f"--namespace={NAMESPACE}", f"--kube-version={kube_version}", *flags
        )


def refusal(*values: Path | Mapping[str, object]) -> str:
    """What Helm says against these values. AssertionError when it takes them."""
    try:
        render(*values)
    except HelmError as error:
        return str(error)
    raise AssertionError(f"not refused: {values[-1]}")


def objects(manifests: str) -> list[Object]:
    """The Kubernetes objects of a rendering, in its order."""
    return [_object(item) for item in yaml.safe_load_all(manifests) if item is not None]


def _object(item: object) -> Object:
    assert isinstance(item, dict), item
    assert item.get("kind"), item
    return item


def nested(values: Mapping[str, object], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every path in a tree of mappings, with what stands there: sections as well as leaves."""
    for key, value in values.items():
        path = (*prefix, str(key))
        yield path, value
        if isinstance(value, dict):
            yield from nested(value, path)


def tree(path: Sequence[str], value: object) -> Object:
    """``{"a": {"b": value}}`` of ``("a", "b")``."""
    result = value
    for key in reversed(path):
        result = {key: result}
    assert isinstance(result, dict)
    return result
