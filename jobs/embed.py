"""Make a vector of each row of a table on Ray Data and index them for nearest neighbours.

heliostat submit -- jobs/embed.py --table flight-delay/raw/planes --embed my.module:function
"""

from heliostat.pipeline import embedding

if __name__ == "__main__":
    embedding.main()
