"""`python -m experiments.faults`; see `experiments.faults.command`."""

from experiments.faults.command import main

if __name__ == "__main__":
    main()
