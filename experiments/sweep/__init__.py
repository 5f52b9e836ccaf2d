"""Sweeps: many runs from one command, and the tables made of them."""
