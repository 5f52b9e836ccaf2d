"""Figures of kernels, for the run folder and for reports."""
