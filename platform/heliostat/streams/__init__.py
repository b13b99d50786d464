"""Micro-batches from partitioned logs into tables and the online store, each event once."""
