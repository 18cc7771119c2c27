"""What pictures show, known before any is drawn: which epochs, and how many points."""

from __future__ import annotations

POINTS = 2000  # at most in a plot, evenly spaced over the test set


def epochs_shown(epochs: int) -> set[int]:
    """List the epochs that get pictures: 1, 2, 5, 10, 20, 50 … and the last."""
    series = {step * 10**power for step in (1, 2, 5) for power in range(len(str(epochs)))}
    return {epoch for epoch in series if epoch <= epochs} | {epochs}
