"""`python -m alprune`, which torchrun starts in each process."""

from alprune.cli import main

if __name__ == "__main__":
    main(prog_name="alprune")
