"""Compute the feature views and join them to the training examples.

heliostat submit --recipe jobs.flights:demo -- jobs/features.py
"""

from heliostat.pipeline import entry

if __name__ == "__main__":
    entry.main(until="features")
