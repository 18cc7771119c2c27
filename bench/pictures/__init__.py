"""What one run draws."""
