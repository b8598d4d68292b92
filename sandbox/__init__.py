"""The sandbox: two kinds of process, one on each side of the wall.

* The **keeper** (``distill.sandbox.keeper``, one a run) is trusted. It says how a jail is
  started here, parses every byte that the jail sends, and enforces limits and deadlines. It
  never holds a key, opens no network connection, and starts no process after its Hello.
* The **interpreter** (``distill.sandbox.jail``, one at a time) is hostile: it runs the
  model's code. It can touch its scratch folder and one inherited socket, and nothing else.

::

    driver ══ ZeroMQ ══ keeper ══ socketpair ══ interpreter   (the wall is between the last two)
                          ║
                       launcher: starts, signals and reaps the interpreter

The modules under ``jail/`` are copied into the jail: they import the standard library and
``msgpack``, nothing else of distill.
"""
