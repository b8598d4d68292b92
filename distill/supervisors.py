"""Supervisors by name: a recipe, or a model of an OpenAI-compatible API."""

from distill.errors import InputError
from distill.models import ModelHandler, OpenAIHandler
from distill.supervisor.recipe import RecipeHandler, recipe_names

DEFAULT_SUPERVISOR = "recipe:find"


def supervisor_from(
    spec: str | None, base_url: str | None = None, *, key: str | None = None
) -> ModelHandler:
    """The supervisor of a name: ``recipe:NAME``, or a model of an OpenAI-compatible API.

    Raises InputError for an unknown recipe or a missing key, ModelError for an endpoint
    that can't be reached or does not serve the model.
    """
    spec = spec or DEFAULT_SUPERVISOR
    kind, _, name = spec.partition(":")
    if kind == "recipe":
        if base_url is not None:
            raise InputError(f"--base-url is for a model; {spec} is a recipe and calls none")
        return RecipeHandler(name)
    if spec in recipe_names():
        raise InputError(f"{spec!r} is a recipe: write --supervisor recipe:{spec}")
    handler = OpenAIHandler(spec, base_url, key)
    handler.check()
    return handler
