"""`python -m cpmae`."""

from cpmae.cli import main

if __name__ == "__main__":
    main()
