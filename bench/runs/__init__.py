"""The matrix: planned, handed to workers or a cluster, done run by run, reported."""
