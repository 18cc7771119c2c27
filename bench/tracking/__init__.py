"""Tracking in MLflow: the only package that imports it. One process tracks; workers hand it their results.

Opening a store raises BenchError before anything trains. After that a method of Tracker raises TrackingError
and nothing else; a Writer takes that upon itself, in a thread of its own, and sends again what was not taken.
"""

from __future__ import annotations

from bench.errors import redacted
from bench.tracking.entries import run_tags
from bench.tracking.pages import pages
from bench.tracking.store import is_server, resolve_uri
from bench.tracking.tracker import Tracker, TrackingError
from bench.tracking.ui import ui_address, ui_command, ui_environment
from bench.tracking.writer import Writer

__all__ = [
    "Tracker",
    "TrackingError",
    "Writer",
    "is_server",
    "pages",
    "redacted",
    "resolve_uri",
    "run_tags",
    "ui_address",
    "ui_command",
    "ui_environment",
]
