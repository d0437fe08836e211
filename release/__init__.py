"""Checks of a release, and the first steps of a new user, timed."""
