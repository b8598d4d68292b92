"""``python -m distill.training.child``: ``distill``, for as long as who started it is there.

A loop trains in such a process: its memory is given back, torch's threads end with it, and nothing
of it outlives a loop that is killed.
"""

import runpy

from distill.worker_server.process import die_with_parent

if __name__ == "__main__":
    die_with_parent()
    runpy.run_module("distill", run_name="__main__", alter_sys=True)
