"""What a person at the engine's terminal is told of workers that join by themselves."""

from distill.traces import records

SENTENCES = {
    "worker_placed": "{name} has a place: {where}",
    "worker_ready": "{name} on {host} serves {model}",
    "worker_left": "{name} on {host} is gone: {why}",
    "worker_failed": "{name} on {host} can't serve: {why}",
    "worker_refused": "a worker was refused: {why}",
    "stranger_refused": "somebody was refused: {why}",
}


def notice(event: records.Event) -> str | None:
    """One line about an event; None if it is not of this kind."""
    sentence = SENTENCES.get(event.event)
    if sentence is None:
        return None
    return sentence.format_map(_Known(event.detail, name=event.producer.name))


class _Known(dict[str, object]):
    """What an event says; what it does not is left open."""

    def __missing__(self, _: str) -> str:
        return "?"
