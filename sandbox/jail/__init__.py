"""What runs inside the jail, beside the model's code: standard library and msgpack only.

Nothing here is trusted by anybody: a cell can reach and change all of it. It is written so
that an honest cell gets an honest REPL; every limit that matters is kept outside too.
"""
