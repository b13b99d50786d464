"""Durable state: the home folder, the event log, leases, stage results; SQLite or PostgreSQL."""
