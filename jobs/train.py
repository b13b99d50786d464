"""Train both versions.

heliostat submit --recipe jobs.flights:demo -- jobs/train.py
"""

from heliostat.pipeline import entry

if __name__ == "__main__":
    entry.main(until="train")
