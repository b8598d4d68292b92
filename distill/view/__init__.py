"""``distill view``: runs as a web page, live from their logs or as one file.

It runs on the user's side, trusted, and reads log folders; it never writes them. What is in a log
came from models and from the jail. So the page's own text is all that ever becomes markup or
script: content reaches it as JSON and is shown as text, and a Content-Security-Policy that names
our one script and our one style sheet by their hashes stands behind that.

``follow`` reads the logs on; ``columns`` and ``facts`` hold what was read; ``answers`` says it in
the ``shapes`` that the page knows, to ``server`` (loopback, with a token) and to ``export`` alike;
``page`` puts ``pages/`` together.
"""
