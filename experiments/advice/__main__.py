"""`python -m experiments.advice`; see `experiments.advice.command`."""

from experiments.advice.command import main

if __name__ == "__main__":
    main()
