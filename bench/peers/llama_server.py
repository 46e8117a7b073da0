"""llama.cpp's own server (continuous batching, prefix cache per slot) from the package xllamacpp, as a process."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
from collections.abc import Collection
from importlib.metadata import version
from typing import Any

from pavane.bench.report import cpu_flags

# What matters to a CPU's matrix products, by Linux's names and by llama.cpp's.
INSTRUCTIONS = {"avx512f": "AVX512", "avx512_vnni": "AVX512_VNNI", "avx512_bf16": "AVX512_BF16"}


def build(system_info: str, cpu: Collection[str]) -> str:
    """Features of the build, from llama.cpp's "CPU : AVX2 = 1 | ...", and what this CPU has beyond them."""
    features = re.findall(r"(\w+) = 1", system_info)
    missing = [name for flag, name in INSTRUCTIONS.items() if flag in cpu and name not in features]
    lacks = f"; built without {', '.join(missing)}, which this CPU has" if missing else ""
    return " ".join(features) + lacks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--context", type=int, required=True, help="tokens of each slot")
    args = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # before its threads: they inherit it
    llama: Any = importlib.import_module("xllamacpp")
    params = llama.CommonParams()
    params.model.path = args.model
    params.n_parallel = args.slots
    params.n_ctx = args.context * args.slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
    params.fit_params = False  # the context as asked for, whatever the memory
    params.cache_ram_mib = 0  # prefixes stay in their slots; copies of them in RAM would only cost time here
    params.verbosity = 0
    params.ui = False
    server = llama.Server(params)
    print(f"about: xllamacpp {version('xllamacpp')}, {build(llama.get_system_info(), cpu_flags())}", flush=True)
    print(f"listening on {server.listening_address.removeprefix('http://')}", flush=True)
    signal.sigwait({signal.SIGTERM})
    os._exit(0)  # nothing to save, and its destructor waits for idle connections


if __name__ == "__main__":
    main()
