"""Let the second version earn its traffic on replayed requests, and say what it showed.

heliostat submit --recipe jobs.flights:demo -- jobs/canary.py
"""

from heliostat.pipeline import entry

if __name__ == "__main__":
    entry.main(until="canary")
