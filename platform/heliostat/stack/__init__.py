"""The local platform's processes: start, stop, look at and check them."""
