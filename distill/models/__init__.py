"""Models, as supervisors and as workers: one interface for an API and for a local engine.

Handlers are synchronous; distill calls them in threads, a bounded number at once, so one
handler may be asked from several threads at once.
"""

from distill.models.checks import check_response
from distill.models.handler import Messages, ModelHandler, model_name
from distill.models.openai_handler import OpenAIHandler
from distill.models.response import LMResponse, ToolCall, Usage
from distill.models.vllm_handler import VLLMHandler

__all__ = [
    "LMResponse",
    "Messages",
    "ModelHandler",
    "OpenAIHandler",
    "ToolCall",
    "Usage",
    "VLLMHandler",
    "check_response",
    "model_name",
]
