"""Versioned tables, the sources they come from, and the contracts their rows must keep."""
