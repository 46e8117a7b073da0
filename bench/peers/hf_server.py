"""transformers behind a small HTTP server: weights of the GGUF file in bfloat16, one batched `generate` at a time."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import torch

from pavane.bench.peers.hf_weights import llama_of
from pavane.models.errors import ModelError
from pavane.models.loader import load_model

transformers: Any = importlib.import_module("transformers")  # its types are too loose for strict checks


class StepTimes:
    """A streamer: the clock after the prompt (first entry) and after every generated token."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.at.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is held back."""


class Generator:
    """`generate` with a prefix cache: the batch before, cut to what its rows share with the rows of this one."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = None
        self._seen = torch.empty(0, 0, dtype=torch.int64)

    @torch.inference_mode()
    def __call__(self, prompts: list[list[int]], tokens: int, fresh: bool) -> dict[str, Any]:
        began = time.perf_counter()
        ids = torch.tensor(prompts)
        cache = None if fresh else self._shared(ids)
        config = transformers.GenerationConfig(
            max_new_tokens=tokens,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
            do_sample=False,
        )
        times = StepTimes()
        output = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            past_key_values=cache,
            streamer=times,
        )
        self._cache, self._seen = output.past_key_values, output.sequences
        return {"times": [at - began for at in times.at[1:]], "tokens": output.sequences[:, ids.shape[1] :].tolist()}

    def _shared(self, ids: torch.Tensor) -> Any:
        """The last batch's cache, cropped; at least one token of each prompt is left to compute."""
        if self._cache is None or len(self._seen) != len(ids):
            return None
        length = min(self._cache.get_seq_length(), ids.shape[1] - 1)
        differs = (self._seen[:, :length] != ids[:, :length]).any(0).nonzero()
        common = int(differs[0]) if len(differs) else length
        if common == 0:
            return None
        if excess := self._cache.get_seq_length() - common:
            self._cache.crop(-excess)
        return self._cache


class Server(HTTPServer):
    def __init__(self, generator: Generator) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.generator = generator


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps(self.server.generator(**body)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True, help="not needed: a batch is as large as it comes")
    parser.add_argument("--context", type=int, required=True, help="not needed: a cache grows")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        loaded = load_model(args.model, torch.bfloat16)
        model = llama_of(loaded.config, loaded.weights)
    except ModelError as error:
        sys.exit(f"transformers: {error}")
    server = Server(Generator(model))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    attention = model.config._attn_implementation
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    print(f"about: {versions}, bfloat16, attention {attention}", flush=True)
    print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
