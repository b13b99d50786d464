"""Fakes for every protocol, and a clock: for tests here, in jobs and in serve_apps."""
