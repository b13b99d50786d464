"""Read the sources into tables; rows that break a contract go to quarantine.

heliostat submit --recipe jobs.flights:demo -- jobs/ingest.py
"""

from heliostat.pipeline import entry

if __name__ == "__main__":
    entry.main(until="ingest")
