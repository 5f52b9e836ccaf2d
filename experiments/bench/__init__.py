"""Benchmarks: never part of the tests, results as JSON with the environment beside them."""
