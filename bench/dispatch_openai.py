"""AsyncOpenAI against FastAPI on uvicorn, both on one machine: how the peers reach a worker.

``python dispatch_openai.py DESCRIPTOR`` is the peer, on a listening socket.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from typing import Any

from dispatch_contestant import Asking, die_with_parent
from dispatch_prompts import IN_FLIGHT

ANSWER = "amber birch cedar delta ember fjord grove heron"


class Contestant(Asking):
    """One client, a task a request."""

    def __init__(self) -> None:
        from openai import AsyncOpenAI

        with socket.create_server(("127.0.0.1", 0)) as listening:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(listening.fileno())],
                pass_fds=[listening.fileno()],
            )
            port = listening.getsockname()[1]
        self.peer = self._process.pid
        self._client = AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=60
        )
        self._runner = asyncio.Runner()
        self._answers: list[str | None] = []

    def prepare(self, asked: list[str]) -> None:
        """Nothing."""

    def ask(self, asked: list[str]) -> None:
        """One completion a prompt."""
        self._answers = self._runner.run(self._ask(asked))

    async def _ask(self, asked: list[str]) -> list[str | None]:
        room = asyncio.Semaphore(IN_FLIGHT)

        async def one(prompt: str) -> str | None:
            async with room:
                completion = await self._client.chat.completions.create(
                    model="none", messages=[{"role": "user", "content": prompt}], temperature=0.0
                )
                return completion.choices[0].message.content

        return await asyncio.gather(*(one(prompt) for prompt in asked))

    def check(self, asked: list[str]) -> None:
        """Each got the answer."""
        assert self._answers == [ANSWER] * len(asked)

    def close(self) -> None:
        """Kill the server."""
        self._process.kill()
        self._process.wait()


def serve(descriptor: int) -> None:
    """Answer every completion at once, until killed."""
    import uvicorn
    from fastapi import FastAPI

    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def complete(request: dict[str, Any]) -> dict[str, Any]:
        message = {"role": "assistant", "content": ANSWER}
        return {
            "id": "none",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": request["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 8, "total_tokens": 9},
        }

    # Its turns may lie further apart than the 5 s after which a connection would be closed.
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_keep_alive=600)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    die_with_parent()
    serve(int(sys.argv[1]))
