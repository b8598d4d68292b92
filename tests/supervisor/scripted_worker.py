"""A worker server that speaks the real wire and does what its script says. Run as a module.

Arguments as the real one, plus ``--script``: JSON with ``folder`` (to count incarnations) and
``acts``, one for each incarnation, the last for all further ones.
"""

import argparse
import json
import os
import queue
import secrets
import signal
import sys
import time
from pathlib import Path

import msgspec

from distill.protocol import PROTOCOL_VERSION
from distill.protocol import worker_link as W
from distill.protocol.codec import WORKER_TO_DRIVER
from distill.protocol.message import Shutdown, Welcome
from distill.protocol.sockets import Inbound
from tests.protocol.socket_thread import SocketThread

CARD = W.ModelCard("scripted", "a", "b", "c", "f32", "cpu", "none", "0", 4096, "raw_logprobs")

LATE_S = {"late": 3.0}
"""How long after they came requests are answered, by act."""


class Server:
    """One incarnation."""

    def __init__(self, connect: str, name: str, act: str) -> None:
        self.act = act
        self.inbox: queue.Queue[W.ToWorker] = queue.Queue()
        epoch = secrets.token_hex(8)
        self.sockets = SocketThread(self.on_batch)
        self.sockets.connect("d", connect, identity=epoch.encode(), limit_bytes=W.FRAME_LIMIT_BYTES)
        self.sockets.start()
        version = 99 if act == "version" else PROTOCOL_VERSION
        self.send(W.WorkerHello(version, name, epoch, os.getpid()))

    def on_batch(self, batch: list[Inbound]) -> None:
        for inbound in batch:
            self.inbox.put(WORKER_TO_DRIVER.decode(inbound.payload))

    def send(self, message: W.FromWorker) -> None:
        self.sockets.send("d", WORKER_TO_DRIVER.encode(message))

    def serve(self) -> None:
        while True:
            try:
                message = self.inbox.get(timeout=0.2)
            except queue.Empty:
                self.send(W.Heartbeat("ready", 0, 0.0, 0, 0))
                continue
            if isinstance(message, Welcome):
                self.ready()
            elif isinstance(message, W.Requests) and self.act != "silent":
                self.answer(message.requests)
            elif isinstance(message, Shutdown):
                self.sockets.close()
                sys.exit(0)

    def ready(self) -> None:
        if self.act == "no model":
            self.send(W.WorkerFailed("model", "there is no such model"))
            self.sockets.close()
            sys.exit(1)
        if self.act == "crash at load":
            sys.exit("Segmentation fault, more or less")
        if self.act == "result before ready":
            self.send(W.Results(()))
        self.send(W.WorkerReady(CARD, 8, 100_000, 0.1))

    def answer(self, requests: tuple[W.Request, ...]) -> None:
        results = [self.result(request, request.attempt) for request in requests]
        time.sleep(LATE_S.get(self.act, 0.0))
        match self.act:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "die half way":
                self.send(W.Results(tuple(results[:3])))
                time.sleep(0.3)
                os.kill(os.getpid(), signal.SIGKILL)
            case "die of p5" if any(request.prompt == "p5" for request in requests):
                os.kill(os.getpid(), signal.SIGKILL)
            case "engine dies":
                self.send(W.WorkerFailed("engine", "EngineCore died"))
                self.sockets.close()
                sys.exit(1)
            case "another adapter":
                lie = msgspec.structs.replace(results[1], adapter="t", weights_version=2)
                self.send(W.Results((results[0], lie, *results[2:])))
            case "freeze":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "noise":
                self.sockets.send("d", b"\xff\xfe not a message")
                time.sleep(30)
            case "twice":
                wrong = [self.result(request, request.attempt + 1) for request in requests]
                strange = W.Result("nobody", 1, "x", "stop", 0, 0)
                self.send(W.Results((*wrong, strange, *results, *results)))
            case "refuse":
                refusals = [
                    W.Failure(r.id, r.attempt, "too_long", "9 tokens over", 4105, 4096)
                    for r in requests
                ]
                self.send(W.Results(tuple(refusals)))
            case _:
                self.send(W.Results(tuple(results)))

    def result(self, request: W.Request, attempt: int) -> W.Result:
        prompt = request.prompt or (request.messages or ())[-1].content
        text = f"{prompt}:{attempt}"
        ids = W.pack_ids((1, 2))
        return W.Result(request.id, attempt, text, "stop", 5, 2, prompt=prompt, token_ids=ids)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--connect", "--worker", "--script"):
        parser.add_argument(name, required=True)
    args = parser.parse_args()
    script = json.loads(args.script)
    lives = Path(script["folder"]) / args.worker
    number = len(lives.read_text()) if lives.exists() else 0
    with lives.open("a") as file:
        file.write(".")
    acts = script["acts"]
    Server(args.connect, args.worker, acts[min(number, len(acts) - 1)]).serve()


if __name__ == "__main__":
    main()
