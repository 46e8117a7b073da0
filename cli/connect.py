"""Options and words that the commands which talk to a server share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import TypedDict

from pavane.cli.extras import UsageError
from pavane.clients import TLS, Receipt, Unavailable
from pavane.clients.security import check_api_key
from pavane.clients.transport import check_namespace


class Connection(TypedDict):
    """How to reach a server: arguments of every client."""

    target: str
    tls: TLS | bool | None
    api_key: str


def add_server_arguments(parser: argparse.ArgumentParser, *, own: bool = False) -> None:
    """--server, --namespace, and what makes the connection safe. `own`: without --server the command starts a server,
    and the option's value is None."""
    add_connection_arguments(parser, own=own)
    parser.add_argument(
        "--namespace",
        default="",
        help="tenant whose encodings are seen and shared; default: that of the API key, or none",
    )


def add_connection_arguments(
    parser: argparse.ArgumentParser, environment: Mapping[str, str] = os.environ, *, own: bool = False
) -> None:
    """--server, TLS and the API key; the files and the key have variables."""
    server = None if own else "localhost:50051"
    parser.add_argument(
        "--server", default=server, metavar="HOST:PORT", help=f"default: {server or 'a server of its own'}"
    )
    parser.add_argument(
        "--api-key",
        default=environment.get("PAVANE_API_KEY", ""),
        metavar="KEY",
        help="of a server that asks for one; other users of this machine can read it here, not in [PAVANE_API_KEY]",
    )
    parser.add_argument(
        "--tls",
        action=argparse.BooleanOptionalAction,
        help="encrypt; default: if one of the files below is given. --no-tls: send an API key in the clear",
    )
    for option, text in (
        ("--tls-ca", "PEM file: who may have signed the server's certificate; default: the well-known authorities"),
        ("--client-cert", "PEM file: certificate of this client, for a server that asks for one"),
        ("--client-key", "PEM file: the private key of --client-cert"),
    ):
        variable = "PAVANE_" + option.strip("-").replace("-", "_").upper()
        parser.add_argument(option, default=environment.get(variable, ""), metavar="FILE", help=f"{text} [{variable}]")


def connection(args: argparse.Namespace) -> Connection:
    """What the options say. Raises UsageError."""
    tls: TLS | bool | None = args.tls
    try:
        if args.tls is not False and (args.tls_ca or args.client_cert or args.client_key):
            tls = TLS(ca=args.tls_ca or None, cert=args.client_cert or None, key=args.client_key or None)
            tls.credentials()  # that the files are there is said before anything else happens
        check_api_key(args.api_key, args.server, tls)
        check_namespace(getattr(args, "namespace", ""))  # `pavane top` has none
    except ValueError as error:
        raise UsageError(str(error)) from None
    return Connection(target=args.server, tls=tls, api_key=args.api_key)


def no_server(target: str, error: Unavailable) -> UsageError:
    """What to say when nobody answers at `target`."""
    return UsageError(
        f"no server answers at {target}; start one with `pavane serve`, or name it with --server ({error})"
    )


def receipt_line(receipt: Receipt) -> str:
    """A receipt in one line of a narrow terminal."""
    return (
        f"{receipt.reused_in_place} in place, {receipt.repositioned} moved, {receipt.encoded} encoded, "
        f"{receipt.generated} generated · TTFT {receipt.first_token:.2f} s · total {receipt.total:.2f} s"
    )
