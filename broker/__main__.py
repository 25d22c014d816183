"""`python -m broker` is the command `signalbox`."""

from broker.cli import main

if __name__ == "__main__":
    main()
