"""Alerts and dashboard: every expression is PromQL, and asks for what the driver exports, in a way that can tell."""

import promql_parser
import pytest
from grpclib.const import Status
from promql_parser import BinaryExpr, MatrixSelector

from tests.chart.conftest import Rendered
from tests.chart.helm import VALUES, objects, render
from tests.chart.look import at, items, one
from tests.chart.promql import (
    SCRAPED,
    Exported,
    Expression,
    exported,
    functions,
    labels_of,
    nodes,
    of_alerts,
    of_dashboard,
    over_ranges,
    selectors,
)

# Of these a range makes sense only where a value grows.
_OF_COUNTERS = {"rate", "increase", "irate"}


@pytest.fixture(params=["alerts", "dashboard"])
def expressions(request: pytest.FixtureRequest, rendered: Rendered) -> list[Expression]:
    if request.param == "dashboard":
        return of_dashboard()
    return of_alerts(one(rendered("monitoring"), "PrometheusRule", "rds-csi"))


@pytest.fixture(scope="module")
def known() -> dict[str, Exported]:
    return exported()


def test_every_expression_is_promql(expressions: list[Expression]) -> None:
    assert len(expressions) >= 10
    for item in expressions:
        assert selectors(promql_parser.parse(item.text)), item


def test_every_interval_of_the_sweep_becomes_promql() -> None:
    for interval in (0.5, 300, 86400):
        there = objects(render(VALUES / "monitoring.yaml", {"sweep": {"interval": interval}}))
        alerts = {item.title: item.text for item in of_alerts(one(there, "PrometheusRule", "rds-csi"))}
        assert promql_parser.parse(alerts["RdsCsiSweepStands"])
        assert f"3 * {interval:g}" in alerts["RdsCsiSweepStands"]


def test_what_is_asked_for_is_exported(expressions: list[Expression], known: dict[str, Exported]) -> None:
    for item in expressions:
        assert {selector.name for selector in selectors(promql_parser.parse(item.text))} <= known.keys(), item


def test_matchers_name_labels_and_values_that_there_are(
    expressions: list[Expression], known: dict[str, Exported]
) -> None:
    for item in expressions:
        for selector in selectors(promql_parser.parse(item.text)):
            family = known[selector.name]
            for matcher in selector.matchers.matchers:
                assert matcher.name in family.labels | SCRAPED, item
                for value in matcher.value.split("|"):
                    assert _can_be(matcher.name, value, family), (item, value)


def _can_be(label: str, value: str, family: Exported) -> bool:
    if label == "code":
        return value in Status.__members__
    # Results and states are told in the metric's description.
    return label in SCRAPED or value in family.meaning


def test_what_grows_is_asked_for_as_a_rate_and_nothing_else_is(
    expressions: list[Expression], known: dict[str, Exported]
) -> None:
    for item in expressions:
        parsed = promql_parser.parse(item.text)
        ranged = over_ranges(parsed)
        for name in {selector.name for selector in selectors(parsed)}:
            assert known[name].is_counted == (name in ranged), (item, name)
        if ranged:
            assert {name for name, _ in functions(parsed)} & _OF_COUNTERS, item


def test_quantiles_are_taken_of_buckets(expressions: list[Expression], known: dict[str, Exported]) -> None:
    for item in expressions:
        for name, arguments in functions(promql_parser.parse(item.text)):
            if name == "histogram_quantile":
                assert "le" in labels_of(arguments[-1], known), item
                assert all(selector.name.endswith("_bucket") for selector in selectors(arguments[-1])), item


def test_labels_by_which_is_joined_and_told_are_those_of_the_result(
    expressions: list[Expression], known: dict[str, Exported]
) -> None:
    for item in expressions:
        assert item.labels_told <= labels_of(promql_parser.parse(item.text), known), item


def test_an_alert_compares(rendered: Rendered) -> None:
    for item in of_alerts(one(rendered("monitoring"), "PrometheusRule", "rds-csi")):
        compared = [node for node in nodes(promql_parser.parse(item.text)) if isinstance(node, BinaryExpr)]
        assert {str(node.op) for node in compared} & {">", "==", "<"}, item
        assert not any(node.modifier is not None and node.modifier.return_bool for node in compared), item


def test_one_connect_that_failed_is_no_alert(rendered: Rendered) -> None:
    rules = items(one(rendered("monitoring"), "PrometheusRule", "rds-csi"), "spec", "groups", 0, "rules")
    rule = next(rule for rule in rules if at(rule, "alert") == "RdsCsiConnectFails")
    (ranged,) = [node for node in nodes(promql_parser.parse(at(rule, "expr"))) if isinstance(node, MatrixSelector)]
    assert ranged.range <= promql_parser.parse_duration(at(rule, "for"))


def test_a_sweep_that_never_ended_is_an_alert_only_where_there_is_one(rendered: Rendered) -> None:
    alerts = {item.title: item.text for item in of_alerts(one(rendered("monitoring"), "PrometheusRule", "rds-csi"))}
    stands = promql_parser.parse(alerts["RdsCsiSweepStands"])
    # The first is 0 before the first end, so nothing may ask for more than 0; the second only nodes with a sweep have.
    assert [selector.name for selector in selectors(stands)] == [
        "rds_csi_sweep_last_success_timestamp_seconds",
        "rds_csi_nvme_sessions",
    ]
    assert str(stands.op) == "and"
