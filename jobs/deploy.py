"""Make the first version answer live requests.

heliostat submit --recipe jobs.flights:demo -- jobs/deploy.py
"""

from heliostat.pipeline import entry

if __name__ == "__main__":
    entry.main(until="deploy")
