"""The trusted side: the driver, which holds every key and budget, and its launcher.

The driver runs the turn loop, dispatches worker calls, answers what the sandbox asks and
is the one writer of both logs. It never runs model-written code and never parses bytes
that come out of a jail: the keeper does that. The launcher starts and reaps every local
process and cleans up when the driver is gone.
"""
