"""Score every row of a table with a registered version and write the answers to a table.

heliostat submit -- jobs/batch_predict.py --model flight-delay --table examples --keep flight_key
"""

from heliostat.pipeline import batch

if __name__ == "__main__":
    batch.main()
