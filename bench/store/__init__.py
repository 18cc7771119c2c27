"""What runs leave on disk: their folders and records, and the locks that guard them."""
