"""Stages joined into one run: from source files to a version that earned its traffic."""
