"""`python -m experiments.influence`; see `experiments.influence.command`."""

from experiments.influence.command import main

if __name__ == "__main__":
    main()
