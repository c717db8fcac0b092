"""`python -m attnlab`, which the command `attnlab` is, too."""

from attnlab.cli import main

if __name__ == "__main__":
    main()
