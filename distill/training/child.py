"""``python -m distill.training.child PID …``: ``distill …``, for as long as process PID is there,
which started it.

A loop trains in such a process: its memory is given back, torch's threads end with it, and nothing
of it outlives a loop that is killed.
"""

import runpy
import sys

from distill.worker_server.process import die_with_parent

if __name__ == "__main__":
    die_with_parent(int(sys.argv.pop(1)))
    runpy.run_module("distill", run_name="__main__", alter_sys=True)
