"""``python -m tests.chart.write``: re-make what is made from the chart, the snapshots and the table of the README."""

from tests.chart import readme
from tests.chart.helm import value_files
from tests.chart.snapshots import SNAPSHOTS, render_snapshot


def main() -> None:
    """Write all of them, and remove the snapshots of value files that are gone."""
    readme.README.write_text(readme.made())
    SNAPSHOTS.mkdir(exist_ok=True)
    wanted = {path.name for path in value_files()}
    for old in SNAPSHOTS.glob("*.yaml"):
        if old.name not in wanted:
            old.unlink()
    for path in value_files():
        (SNAPSHOTS / path.name).write_text(render_snapshot(path))
        print(f"wrote {path.stem}")


if __name__ == "__main__":
    main()
