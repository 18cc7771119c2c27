"""Tracking in MLflow: the only package that imports it. One process tracks; workers hand it their results.

Opening a store raises BenchError before anything trains. After that a method of Tracker raises TrackingError
and nothing else: the caller may note it and train on, since `Tracker.deliver` sends finished work again.
"""

from __future__ import annotations

from bench.tracking.entries import run_tags
from bench.tracking.pages import pages
from bench.tracking.store import is_server, redacted, resolve_uri, ui_command, ui_environment
from bench.tracking.tracker import Tracker, TrackingError

__all__ = [
    "Tracker",
    "TrackingError",
    "is_server",
    "pages",
    "redacted",
    "resolve_uri",
    "run_tags",
    "ui_command",
    "ui_environment",
]
