"""Bring a topic's messages into tables and the online store, each once, until it is stopped.

heliostat submit -- jobs/stream.py --recipe my_jobs.shop:orders --model shop
"""

from heliostat.pipeline import stream

if __name__ == "__main__":
    stream.main()
