"""Experiments: sweeps, tables, pre-training of the shipped backbone, benchmarks."""
