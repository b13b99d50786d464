"""Runs, model versions, packages, signatures: what was trained and whether to trust it."""
