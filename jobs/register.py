"""Package, sign and register both versions that their gates let pass.

heliostat submit --recipe jobs.flights:demo -- jobs/register.py
"""

from heliostat.pipeline import entry

if __name__ == "__main__":
    entry.main(until="register")
