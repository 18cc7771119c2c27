"""Data sets as uint8 images: found, verified, split."""
