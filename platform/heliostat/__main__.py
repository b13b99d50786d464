"""``python -m heliostat``: the command line without the script, whose path may be too long."""

from heliostat.cli import main

if __name__ == "__main__":
    main()
