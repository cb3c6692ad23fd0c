"""Unit tests: no root, no sleeping, no patching; everything from outside is injected."""
