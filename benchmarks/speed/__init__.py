"""`make speed`: training beside the loop everybody writes, and both beside what the machine can do."""
