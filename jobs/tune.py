"""Search the candidate's training, train it with the best values, and register it.

heliostat submit --recipe jobs.flights:search -- jobs/tune.py
"""

from heliostat.pipeline import tune

if __name__ == "__main__":
    tune.main()
