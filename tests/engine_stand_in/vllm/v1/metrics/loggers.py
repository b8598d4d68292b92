"""What ``Steps`` of the worker server derives from."""


class PrometheusStatLogger:
    """Never used as it is."""
