"""The placer process: it asks a Ray cluster for places, and has worker servers started there.

It may touch: Ray, as one job of its own, and one ZeroMQ connection to the driver. On the nodes it
has an actor a worker server (``place``): the process that Ray moves, and starts again where it
died. The actor starts a launcher, as the driver does on its own machine, and the launcher the
worker server; so none outlives its actor, and no actor its job.

It never: sees a prompt or an answer (they travel between worker server and driver), holds an API
key, or decides where a worker server runs or whether it is started again: Ray does the one, the
driver's fleet the other.

``placer`` and ``place`` are the only modules that import Ray.
"""
