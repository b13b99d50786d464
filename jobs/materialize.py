"""Fill the online store as of the moment at which the replay starts.

heliostat submit --recipe jobs.flights:demo -- jobs/materialize.py
"""

from heliostat.pipeline import entry

if __name__ == "__main__":
    entry.main(until="materialize")
