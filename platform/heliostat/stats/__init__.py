"""Statistics that may be looked at any time: slots, sequential tests and intervals; pure."""
