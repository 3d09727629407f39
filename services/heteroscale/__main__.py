"""`python -m heteroscale`, the same as `heteroscale`."""

from heteroscale.cli.main import main

if __name__ == "__main__":
    main()
