"""Talk to a served model. Every turn is a message that is encoded once.

examples:
  pavane chat --system "You answer in one sentence."
  echo "Name a river." | pavane chat --max-tokens 20
  echo "Is 91 prime?" | pavane chat --regex "yes|no"

/exit or Ctrl-D leaves; Ctrl-C stops an answer.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator

from pavane.cli.connect import add_server_arguments, connection, no_server, receipt_line
from pavane.cli.extras import UsageError
from pavane.cli.sampling import add_sampling_arguments, sampling_options
from pavane.clients import CallFailed, DecodeOptions, PavaneError, SyncClient, SyncMessage, SyncWorkflow, Unavailable
from pavane.clients.checks import UINT32, integer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pavane chat`."""
    add_server_arguments(parser)
    parser.add_argument("--system", metavar="TEXT", help="how the model should behave")
    parser.add_argument("--max-tokens", type=int, default=512, help="limit of one answer; default: %(default)s")
    add_sampling_arguments(parser)
    parser.add_argument("--fidelity", choices=("reuse", "exact"), help="of all edges; default: reuse")


def run(args: argparse.Namespace) -> int:
    """Talks until the input ends. Returns 0, or 1 if an answer failed."""
    options = sampling_options(args)
    try:
        integer("--max-tokens", args.max_tokens, UINT32, least=1)
    except ValueError as error:
        raise UsageError(str(error)) from None
    with SyncClient(**connection(args), namespace=args.namespace) as client:
        try:
            info = client.server_info()
        except Unavailable as error:
            raise no_server(args.server, error) from error
        with client.workflow() as wf:
            chat = Chat(wf, args, options)
            if sys.stdin.isatty():
                print(f"{info.model} at {args.server} · /exit leaves, Ctrl-C stops an answer")
            for text in _turns():
                chat.turn(text)
    return 1 if chat.failures else 0


class Chat:
    """The messages so far: every turn sees all of them."""

    def __init__(self, wf: SyncWorkflow, args: argparse.Namespace, options: DecodeOptions) -> None:
        self._wf = wf
        self._options: DecodeOptions = {**options, "max_tokens": args.max_tokens, "fidelity": args.fidelity}
        self._fidelity = args.fidelity
        self._seen: list[SyncMessage] = []
        self.failures = 0
        if args.system:
            self._seen.append(wf.prefill(system=args.system, fidelity=self._fidelity))

    def turn(self, text: str) -> None:
        """One question and its answer, printed as it comes."""
        question = self._wf.prefill(*self._seen, user=text, fidelity=self._fidelity)
        answer = self._wf.decode(*self._seen, question, **self._options)
        shown = ""
        try:
            try:
                for delta in answer:
                    print(delta.text, end="", flush=True)
                    shown += delta.text
                receipt = answer.result().receipt
            except KeyboardInterrupt:
                answer.cancel()
                receipt = answer.result().receipt  # it may have ended before it was cancelled
        except PavaneError as error:
            print()
            self._broken_off(question, shown, error)
            return
        self._seen += [question, answer]
        print()
        _note(receipt_line(receipt))

    def _broken_off(self, question: SyncMessage, shown: str, error: PavaneError) -> None:
        # A message that did not end well is no parent; what was read of it can be said again as a given turn.
        if not isinstance(error, CallFailed) or error.result.state != "cancelled":
            self.failures += 1
            _note(f"failed: {error}; this turn is left out")
        elif shown:
            partial = self._wf.prefill(*self._seen, question, assistant=shown, fidelity=self._fidelity)
            self._seen += [question, partial]
            _note("stopped; the answer stands as far as it came")
        else:
            _note("stopped before the first word; this turn is left out")


def _turns() -> Iterator[str]:
    terminal = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # what is not UTF-8
    while True:
        try:
            text = input("\n> " if terminal else "").strip()
        except (EOFError, KeyboardInterrupt):
            if terminal:
                print()
            return
        if text == "/exit":
            return
        if text:
            yield text


def _note(text: str) -> None:
    if sys.stdout.isatty():
        print(f"\x1b[2m{text}\x1b[0m")
    else:
        print(text, file=sys.stderr)
