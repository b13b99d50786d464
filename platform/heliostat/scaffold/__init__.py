"""A first workload out of one file: what its columns are, and a folder that runs at once."""
