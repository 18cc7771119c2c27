"""Measurements of bench itself, run in a clone of the repository."""
