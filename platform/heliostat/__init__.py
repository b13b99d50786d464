"""Heliostat: an open ML platform on Ray, from raw data to a model that earned its traffic."""

__version__ = "0.1.0"
