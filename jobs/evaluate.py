"""Measure both trained versions and ask their gates.

heliostat submit --recipe jobs.flights:demo -- jobs/evaluate.py
"""

from heliostat.pipeline import entry

if __name__ == "__main__":
    entry.main(until="evaluate")
