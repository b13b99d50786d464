"""Fit a network on many workers, measure it, gate it, and turn it into a signed package."""
