"""`python -m edgec` is the command line."""

from edgec.cli import main

if __name__ == "__main__":
    main()
