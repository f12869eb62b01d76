"""The tests. A package, so that `tests.NAME` is importable from any of them."""
