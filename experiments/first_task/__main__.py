"""`python -m experiments.first_task`; see `experiments.first_task.command`."""

from experiments.first_task.command import main

if __name__ == "__main__":
    main()
