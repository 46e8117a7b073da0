"""Any server with OpenAI's /v1/completions as a peer: vLLM, SGLang, llama.cpp's server and others."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

from pavane.bench.peers.answer import Answer
from pavane.bench.peers.http import Http, PeerFailed, Refused
from pavane.bench.report import say

Spell = Callable[[Sequence[int]], Awaitable[str]]


class Completions:
    """Prompts are token ids, or, if the first one is refused for that, the text that `spell` makes of them. Its answers
    are asked to be of exactly the given length, and it has to say that they were: a server that stops at an end of turn
    after all, or reads another number of ids, is not measured. Text may become other tokens; the answer says how many.
    """

    def __init__(self, http: Http, path: str, model: str, name: str, spell: Spell) -> None:
        self._http = http
        self._path = path
        self._model = model
        self._spell = spell
        self._as_text: bool | None = None  # not known before the first answer
        self.name = name
        self.about = f"{model}, over {path}/completions; started by others, with flags of their own"

    @classmethod
    async def at(cls, url: str, spell: Spell) -> Self:
        """The first model of the server at `url` (http://HOST:PORT, with or without /v1). Raises PeerFailed."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.netloc:
            raise PeerFailed(f"{url!r} is no address of a server; give http://HOST:PORT")
        path = parts.path.rstrip("/") or "/v1"
        http = Http(parts.netloc)
        try:
            models = await http.get(f"{path}/models")
        except PeerFailed:
            http.close()
            raise
        try:
            model = str(models["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            http.close()
            raise PeerFailed(f"{url}: {path}/models names no model: {models!r:.200}") from None
        return cls(http, path, model, url, spell)

    async def complete(self, prompt: Sequence[int], tokens: int) -> Answer:
        if not self._as_text:
            try:
                answer = await self._complete(list(prompt), len(prompt), tokens)
            except Refused as error:
                if self._as_text is False:
                    raise
                say(f"  {self.name}: refuses token ids ({error}); its prompts are text from here on")
            else:
                self._as_text = False
                return answer
        answer = await self._complete(await self._spell(prompt), None, tokens)
        self._as_text = True
        return answer

    async def _complete(self, prompt: list[int] | str, length: int | None, tokens: int) -> Answer:
        """`length` of the prompt in tokens, if that is known."""
        body = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": tokens,
            "min_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,  # vLLM tells its tokens then
        }
        began = time.perf_counter()
        events = await self._http.events(f"{self._path}/completions", body)
        return _answer(self.name, events, began, length, tokens)

    def close(self) -> None:
        self._http.close()


def _answer(name: str, events: Sequence[tuple[float, Any]], began: float, prompt: int | None, tokens: int) -> Answer:
    first = next((at for at, event in events if event.get("choices")), None)
    usage = next((event["usage"] for _, event in reversed(events) if event.get("usage")), None)
    if error := next((event["error"] for _, event in events if "error" in event), None):
        raise PeerFailed(f"{name}: {error}")
    if first is None or usage is None:
        raise PeerFailed(f"{name}: a stream without {'tokens' if first is None else 'usage'}; it must report both")
    for what, wanted, got in (("generated", tokens, "completion_tokens"), ("read", prompt, "prompt_tokens")):
        if wanted is not None and usage.get(got) != wanted:
            raise PeerFailed(f"{name}: {what} {usage.get(got)} tokens instead of {wanted}; see its tokenizer settings")
    ids = [
        int(id) for _, event in events for choice in event.get("choices", ()) for id in choice.get("token_ids") or ()
    ]
    read = int(usage["prompt_tokens"]) if prompt is None and "prompt_tokens" in usage else None
    return Answer(first - began, events[-1][0] - began, ids if len(ids) == tokens else None, read)
