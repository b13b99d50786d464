"""Run everything, from the source files to a version that earned its traffic.

heliostat submit --recipe jobs.flights:demo -- jobs/pipeline.py
"""

from heliostat.pipeline import entry

if __name__ == "__main__":
    entry.main(until="canary")
