"""The same feature values offline, as of a time, and online."""
