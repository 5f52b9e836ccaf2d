"""`python -m ntkcl_jax` is the `ntkcl` command."""

from ntkcl_jax.cli import main

main()
