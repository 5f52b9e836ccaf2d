"""Kernel analysis of NTK-CL runs; imports ntkcl_jax, never the other way."""
