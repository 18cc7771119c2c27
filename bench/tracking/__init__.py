"""Tracking in MLflow: the only package that imports it. One process tracks; workers hand it their results.

Opening a store raises BenchError before anything trains. From then on a Tracker raises TrackingError only,
and a Writer catches it: a thread that tries again, so that training neither waits nor fails.
"""

from bench.errors import redacted
from bench.tracking.store import is_server, resolve_uri
from bench.tracking.tracker import Attempt, Tracker, TrackingError
from bench.tracking.ui import pages, ui_address, ui_command, ui_environment
from bench.tracking.writer import Writer

__all__ = ["Attempt", "Tracker", "TrackingError", "Writer", "is_server", "pages", "redacted", "resolve_uri"]
__all__ += ["ui_address", "ui_command", "ui_environment"]
