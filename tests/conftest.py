"""One thread a test process: tests run beside each other, as the runs of a matrix do."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch or BLAS is first imported
