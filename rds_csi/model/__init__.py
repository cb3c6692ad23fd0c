"""Frozen value objects and their (de)serialisation: no I/O, no clocks, no imports from other rooms."""
