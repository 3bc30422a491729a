"""Which client a model is called with: ours for the OpenAI wire format, litellm for everybody else's."""

from collections.abc import AsyncGenerator, Sequence

from agents.clients import over_litellm
from agents.clients.chat_completions import ChatCompletions
from agents.llm import Delta, ModelRequest

# Their chat-completions endpoints are OpenAI's, byte for byte.
OUR_PREFIXES = ("openai/", "hosted_vllm/", "ollama_chat/")


def is_ours(model: str, api_base: str | None) -> bool:
    """An address of one's own speaks the format of OpenAI, whatever the model is called."""
    return api_base is not None or model.startswith(OUR_PREFIXES)


class ModelClients:
    """A `ModelClient` for every model. One for each process: it holds the connections of all calls.

    `litellm_for_all` sends the models that we could call ourselves through litellm, too.
    """

    def __init__(self, *, litellm_for_all: bool = False) -> None:
        self._litellm_for_all = litellm_for_all
        self._ours = ChatCompletions()

    def load(self, models: Sequence[str], api_base: str | None) -> None:
        """Imports litellm, where one of these models needs it: 10 s of CPU and 190 MB that a run should not wait for.
        `models` may be patterns such as `anthropic/*`."""
        if self._litellm_for_all or not all(is_ours(model, api_base) for model in models):
            over_litellm.load()

    def __call__(self, request: ModelRequest, /) -> AsyncGenerator[Delta, None]:
        if not self._litellm_for_all and is_ours(request.model, request.api_base):
            return self._ours.stream(request)
        return over_litellm.stream(request)

    async def close(self) -> None:
        await self._ours.close()
