"""Fill the online store as of the moment at which the replay starts, or a server up to now.

heliostat submit --recipe jobs.flights:demo -- jobs/materialize.py
heliostat submit --recipe jobs.flights:demo -- jobs/materialize.py --online redis://127.0.0.1:6379/0
"""

from heliostat.pipeline import bring

if __name__ == "__main__":
    bring.main()
