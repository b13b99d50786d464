"""The honest job client: upload this clone, run a script as a Ray job, follow it, exit as it does."""
