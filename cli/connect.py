"""Options and words that the commands which talk to a server share."""

from __future__ import annotations

import argparse

from pavane.cli.extras import UsageError
from pavane.clients import Receipt, Unavailable


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """--server and --namespace."""
    parser.add_argument("--server", default="localhost:50051", metavar="HOST:PORT", help="default: %(default)s")
    parser.add_argument("--namespace", default="", help="tenant whose encodings are seen and shared; default: none")


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
