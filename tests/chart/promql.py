"""The chart's PromQL, parsed: what alerts and dashboard ask for, beside what the driver really exports."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import promql_parser
from prometheus_client import generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families
from promql_parser import AggModifierType, AggregateExpr, BinaryExpr, Call, Expr, MatrixSelector, VectorSelector

from rds_csi.metrics import Metrics
from tests.chart.helm import CHART, Object
from tests.chart.look import at, items

# The label that Prometheus itself gives to all that it scrapes.
SCRAPED = frozenset({"instance"})

_DASHBOARD = CHART / "dashboards" / "rds-csi.json"
# What Grafana puts in by itself; any range will do.
_GRAFANAS = {"$__rate_interval": "5m"}


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression, and the text that is made of its result: an alert's sentences, a panel's legend."""

    title: str
    text: str
    told: str

    @property
    def labels_told(self) -> set[str]:
        """``{{ $labels.instance }}`` of an alert, ``{{instance}}`` of a legend."""
        return set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", self.told))


@dataclass(frozen=True, slots=True)
class Exported:
    """One series of the driver's: its type (counter, gauge, histogram), its labels, and its family's description."""

    type: str
    labels: frozenset[str]
    meaning: str

    @property
    def is_counted(self) -> bool:
        """Whether it only grows, so that nothing but its rate says something."""
        return self.type in ("counter", "histogram")


def exported() -> dict[str, Exported]:
    """Every series at ``/metrics``, by its name: one of each metric, with whatever label values."""
    metrics = Metrics()
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase) and metric._labelnames:
            metric.labels(*metric._labelnames)
    there: dict[str, Exported] = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            labels = there[sample.name].labels if sample.name in there else frozenset()
            there[sample.name] = Exported(family.type, labels | sample.labels.keys(), family.documentation)
    return there


def of_alerts(rule: Object) -> list[Expression]:
    """Those of a PrometheusRule."""
    rules = items(rule, "spec", "groups", 0, "rules")
    return [Expression(str(at(item, "alert")), str(at(item, "expr")), str(at(item, "annotations"))) for item in rules]


def of_dashboard() -> list[Expression]:
    """Those of the Grafana dashboard."""
    panels = json.loads(_DASHBOARD.read_text())["panels"]
    found = []
    for panel in panels:
        for target in panel.get("targets", []):
            text = target["expr"]
            for name, value in _GRAFANAS.items():
                text = text.replace(name, value)
            found.append(Expression(panel["title"], text, target["legendFormat"]))
    return found


def nodes(expression: Expr) -> Iterator[Expr]:
    """The expression and all below it."""
    seen: list[Expr] = []
    promql_parser.walk(expression, seen.append)
    yield from seen


def selectors(expression: Expr) -> list[VectorSelector]:
    """What it asks for, as an instant or over a range."""
    return [node for node in nodes(expression) if isinstance(node, VectorSelector)]


def over_ranges(expression: Expr) -> set[str]:
    """The names of what it asks for over a range of time."""
    return {node.vector_selector.name for node in nodes(expression) if isinstance(node, MatrixSelector)}


def functions(expression: Expr) -> list[tuple[str, Sequence[Expr]]]:
    """The functions that it calls, with their arguments."""
    return [(node.func.name, node.args) for node in nodes(expression) if isinstance(node, Call)]


def labels_of(expression: Expr, known: Mapping[str, Exported]) -> frozenset[str]:
    """The labels of what it comes to. AssertionError where it takes together by labels that there are not."""
    if isinstance(expression, VectorSelector):
        return known[expression.name].labels | SCRAPED
    if isinstance(expression, MatrixSelector):
        return labels_of(expression.vector_selector, known)
    if isinstance(expression, AggregateExpr):
        return _labels_of_aggregate(expression, known)
    if isinstance(expression, BinaryExpr):
        return _labels_of_pair(expression, known)
    below = [labels_of(item, known) for item in _parts(expression)]
    labels = frozenset[str]().union(*below)
    return labels - {"le"} if isinstance(expression, Call) and expression.func.name == "histogram_quantile" else labels


def _parts(expression: Expr) -> Sequence[Expr]:
    if isinstance(expression, Call):
        return list(expression.args)
    inner = getattr(expression, "expr", None)
    return [] if inner is None else [inner]


def _labels_of_aggregate(expression: AggregateExpr, known: Mapping[str, Exported]) -> frozenset[str]:
    below = labels_of(expression.expr, known)
    if expression.modifier is None:
        return frozenset()
    named = frozenset(expression.modifier.labels)
    assert named <= below, f"by {sorted(named - below)}, which {expression.expr.prettify()} has not"
    return named if expression.modifier.type == AggModifierType.By else below - named


def _labels_of_pair(expression: BinaryExpr, known: Mapping[str, Exported]) -> frozenset[str]:
    left, right = labels_of(expression.lhs, known), labels_of(expression.rhs, known)
    matching = expression.modifier.matching if expression.modifier is not None else None
    if matching is not None:
        named = frozenset(matching.labels)
        assert named <= left & right, f"on {sorted(named - (left & right))}, which one side has not"
    elif left and right:
        # Without `on` both sides must have the same labels, or nothing ever fits.
        assert left == right, f"{sorted(left)} and {sorted(right)} never fit"
    return left or right
