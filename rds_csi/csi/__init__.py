"""Generated from protos/ by `nox -s proto`; never edited."""
