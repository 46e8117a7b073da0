"""API keys of a server: `pavane serve --api-keys FILE` lets in who has one.

  pavane keys new --tenant team-a                         a key, and its line for FILE
  pavane keys new --tenant ops --role admin               for `pavane top`
  pavane keys new --tenant team-a --priority 0 --shared library --expires 2027-01-31
  pavane keys list FILE                                   whose keys are in it

The key is shown once and stored nowhere: FILE has its hash. A server reads FILE again when it changes; a line that is
gone ends what its key may do. What a tenant may use stands in the file of `pavane serve --tenants`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from pavane.cli.extras import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pavane keys`."""
    commands = parser.add_subparsers(dest="keys", required=True, metavar="COMMAND")
    new = commands.add_parser("new", help="prints a new key, and its line for the file of --api-keys")
    new.add_argument("--tenant", required=True, metavar="NAMESPACE", help="whose it is; '' is the one without a name")
    new.add_argument("--role", default="user", help="user, or admin: AdminService as well; default: %(default)s")
    new.add_argument("--priority", default="", metavar="N", help="that its workflows may have at most; default: any")
    new.add_argument("--shared", default="", metavar="NAMESPACE,...", help="other namespaces that it may name")
    new.add_argument("--name", default="", help="for people")
    new.add_argument("--expires", default="", metavar="DATE", help="2027-01-31 or 2027-01-31T18:00:00Z; default: never")
    shown = commands.add_parser("list", help="whose keys are in a file; says what is wrong with it")
    shown.add_argument("file", metavar="FILE")


def run(args: argparse.Namespace) -> int:
    """Returns 0."""
    return _list(Path(args.file)) if args.keys == "list" else _new(args)


def _new(args: argparse.Namespace) -> int:
    from pavane.server.keys import digest, make_key, new_secret

    secret = new_secret()
    try:
        key = make_key(digest(secret), args.tenant, args.role, args.priority, args.shared, args.name, args.expires)
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    if key.expired(time.time()):
        raise UsageError(f"--expires={args.expires} is over already; give a later time")
    print("the key, for whoever calls; it is stored nowhere:", file=sys.stderr, flush=True)
    print(secret, flush=True)
    print("its line for the file of `pavane serve --api-keys`:", file=sys.stderr, flush=True)
    print(key.line())
    return 0


def _list(path: Path) -> int:
    from pavane.server.keys import parse_keys

    try:
        keys = parse_keys(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from None
    now = time.time()
    for key in keys:
        hash_word, rest = key.line().split(" ", 1)
        print(f"{hash_word[:15]}... {rest}{' (expired)' if key.expired(now) else ''}")
    return 0
