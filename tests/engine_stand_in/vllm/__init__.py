"""An engine that does no work, in vLLM's place: with exactly what ``worker_server`` uses of it.

On the PYTHONPATH of a real worker server (``tests.engine_stand_in.spec``) it is imported as
``vllm``, so all of the worker server's own code runs as it is. What is different: ``tokens``
(a tokenizer that costs next to nothing), and an answer that is a function of the prompt.

A model's folder may hold ``answer.txt``: then that is the answer to everything (a supervisor's
cell, for example), whatever the options say.

Environment variables of the worker server:

- ``STAND_IN_LATENCY_S``: how long each request takes in the engine; 0.
- ``STAND_IN_AT_ONCE``: how many are in the engine at once, the others wait; no limit.
- ``STAND_IN_WORDS``: words, and so tokens, of an answer; 8.
- ``STAND_IN_CACHED_SHARE``: of each prompt's tokens, what it says that its cache had; 0.
- ``STAND_IN_BASE``: 1 for a model without a chat template.
- ``STAND_IN_CORE``: 1 if each answer waits for the engine's process, so that it is missed.
- ``STAND_IN_POISON``: a prompt, after the template, that ends the engine's process.
- ``STAND_IN_ASKED``: a file to which the prompts that reach the engine are added, one a line, as
  the last two ids of each.
"""

__version__ = "0+stand-in"
