"""The errors of a request."""


class VLLMClientError(Exception):
    """The request can't be served."""
