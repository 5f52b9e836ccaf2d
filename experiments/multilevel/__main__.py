"""`python -m experiments.multilevel`; see `experiments.multilevel.command`."""

from experiments.multilevel.command import main

if __name__ == "__main__":
    main()
