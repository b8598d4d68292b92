"""The worker server process: one vLLM engine on one GPU (or on CPU cores), nothing else.

It may touch: its device, the model's files, the cache folder (``~/.cache/distill``), its
scratch folder, and one ZeroMQ connection to the driver. What it starts: vLLM's EngineCore
(and vLLM's own workers where a model spans several GPUs), in its own process group.

It never: holds a key, queues more than its credit, writes a log file, starts or restarts
another worker, decides a retry, or reads the context. All it knows arrives in a request.

``engine`` is the only module that imports vLLM. It is also used inside the user's own
process by ``VLLMHandler``.
"""
