"""Workflows with reuse, with a prefix cache, and on peers: the same recorded tokens in every run, arms interleaved.

  pavane bench workflow rag-team --json rag.jsonl                        exact and reuse, 5 times each
  pavane bench workflow debate --sizes agents=4,rounds=2 --peer llama.cpp
  pavane bench workflow rag-team --sizes agents=2 agents=4 agents=8      how it grows
  pavane bench workflow debate --problems math.jsonl --problem 3         a problem of a file
  pavane bench workflow debate --peer http://localhost:8000              any server with OpenAI's /v1/completions

The file of --json gets one line for each finished run; the same command goes on where it was interrupted, and more
repetitions, sizes, peers or workflows may be added to it. `pavane report` makes a page of it. The exit status is 1 if a
count is not what the formula says, or a peer that was asked for could not be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib.metadata
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from pavane.bench.arguments import positive
from pavane.bench.lab import open_lab, stopped_in_order
from pavane.bench.peers.completions import Completions, Spell
from pavane.bench.peers.http import PeerFailed
from pavane.bench.peers.peer import PACKAGES, Peer, check_installed, start_peer
from pavane.bench.peers.replay import longest, width
from pavane.bench.report import cores, cpu, say, show, table
from pavane.bench.server_process import ServerFailed
from pavane.bench.workflows.cases import Case, make_cases, with_problem
from pavane.bench.workflows.figures import all_figures
from pavane.bench.workflows.journal import Journal
from pavane.bench.workflows.lines import as_line
from pavane.bench.workflows.records import MODES, Recording, Setup, Trouble
from pavane.bench.workflows.session import measure, recorded
from pavane.models.default import default_model_path

NO_PEERS = "none"
SPARE = 64  # tokens of a peer's context beyond the longest prompt with its answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `pavane bench workflow`; --json and --serve are those of all benchmarks."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("workflow", metavar="NAME", help="a workflow (see pavane workflow --list), or all")
    parser.add_argument("--modes", default="exact,reuse", help=f"of {', '.join(MODES)}; default: %(default)s")
    parser.add_argument("--sizes", nargs="+", default=[], metavar="NAME=N,...", help="one case for each word")
    parser.add_argument(
        "--problems", type=Path, metavar="FILE", help="a problem in each line, as JSON; default: our own"
    )
    parser.add_argument("--problem", type=positive, default=1, metavar="N", help="which of them; default: the first")
    parser.add_argument("--repeat", type=positive, default=5, metavar="N", help="of each arm; default: %(default)s")
    parser.add_argument("--seed", type=positive, default=1, help="of the recorded run; default: %(default)s")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="PEER", help=f"{', '.join(PACKAGES)}, or a URL; may be repeated"
    )
    parser.add_argument("--threads", type=positive, default=cores(), help="of every system; default: one per core")
    parser.add_argument("--model", type=Path, help="GGUF file for all systems; default: as pavane serve")
    parser.add_argument("--quick", action="store_true", help="small sizes that show that it works; no figures to quote")


def run(args: argparse.Namespace) -> int:
    """Measures what the journal lacks, and prints one table of all that was asked for."""
    modes = [mode for mode in args.modes.split(",") if mode]
    if wrong := [mode for mode in modes if mode not in MODES]:
        say(f"--modes: {wrong[0]!r} is none of {', '.join(MODES)}")
        return 2
    cases = make_cases(args.workflow, args.sizes, args.problems, args.problem, small=args.quick)
    journal = Journal(None if args.json in (None, "-") else Path(args.json))
    model = args.model or default_model_path()
    if journal.begin(make_setup(model, args)):
        say(f"  {args.json} goes on")
    with stopped_in_order():
        asyncio.run(_measure(cases, modes, journal, model, args))
    return _conclude(journal, cases, args)


async def _measure(
    cases: Sequence[Case], modes: Sequence[str], journal: Journal, model: Path, args: argparse.Namespace
) -> None:
    async with open_lab(model=model, threads=args.threads, peers=(), slots=0, serve=args.serve) as lab:
        async with lab.pavane.client() as client:
            cases = [await with_problem(case, client) for case in cases]
            bos = (await client.server_info()).bos_token_id
        recordings = [await recorded(lab, journal, case, args.seed) for case in cases]

        async def spell(ids: Sequence[int]) -> str:
            """Without BOS, which a server that reads text puts there itself."""
            async with lab.pavane.client() as client:
                return await client.detokenize(ids[1:] if bos is not None and ids[0] == bos else ids)

        async with _peers(recordings, journal, model, args, spell) as peers:
            for case, recording in zip(cases, recordings, strict=True):
                await measure(lab, journal, case, recording, [*modes, *peers], args.repeat, bos=bos)


def make_setup(model: Path, args: argparse.Namespace) -> Setup:
    """What all runs of a file have in common, from the command line."""
    files = [model] if model.is_file() else [*model.glob("*")]
    return Setup(
        model=model.name,
        model_bytes=sum(file.stat().st_size for file in files),
        threads=args.threads,
        serve=tuple(args.serve),
        problems=_digest(args.problems) if args.problems else "own",
        seed=args.seed,
        cores=cores(),
        cpu=cpu(),
        pavane=importlib.metadata.version("pavane"),
    )


def _digest(path: Path) -> str:
    return f"{path.name} {hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()}"


@asynccontextmanager
async def _peers(
    recordings: Sequence[Recording], journal: Journal, model: Path, args: argparse.Namespace, spell: Spell
) -> AsyncIterator[list[Peer]]:
    """Those that could be had; of the others is said why not."""
    slots = max(map(width, recordings))
    context = max(map(longest, recordings)) + SPARE
    found: list[Peer] = []
    async with AsyncExitStack() as stack:
        for name in dict.fromkeys(args.peer):
            if name == NO_PEERS:
                continue
            try:
                found.append(await _peer(stack, name, model, args.threads, slots, context, spell))
                say(f"  {name}: {found[-1].about}")
            except (PeerFailed, ServerFailed, ModuleNotFoundError) as error:
                text = f"this peer is not there: {error}"
                if isinstance(error, ModuleNotFoundError):
                    text += "; pip install 'pavane[server,cli,bench]'"
                say(f"  {name}: {text}; the others are measured without it")
                for recording in recordings:
                    journal.add(Trouble(recording.case, name, text))
        yield found


async def _peer(
    stack: AsyncExitStack, name: str, model: Path, threads: int, slots: int, context: int, spell: Spell
) -> Peer:
    if name not in PACKAGES:
        if "://" not in name:
            raise PeerFailed(f"no such peer; known are {', '.join(PACKAGES)}, or a URL such as http://localhost:8000")
        server = await Completions.at(name, spell)
        stack.callback(server.close)
        return server
    check_installed([name])
    return await stack.enter_async_context(start_peer(name, model, threads, slots, context))


def _conclude(journal: Journal, cases: Sequence[Case], args: argparse.Namespace) -> int:
    names = {case.name for case in cases}
    found = all_figures(journal, [recording for recording in journal.recordings if recording.case in names])
    setup = journal.setup
    assert setup is not None
    head = f"{setup.cores} cores ({setup.cpu}), {setup.threads} threads each, model {setup.model}; medians"
    if args.quick:
        head += "\n--quick: sizes too small for the figures to mean anything"
    text = f"\n{head}\n\n{table(found)}" if found else f"\n{head}\n\nno figures: they compare with the mode reuse"
    show(text, args.json)
    if args.json == "-":
        for record in journal.records:
            print(as_line(record))
    miscounted = [run for case in cases for run in journal.runs(case.name) if not run.counted]
    for run in miscounted:
        say(
            f"WRONG COUNT: {run.case}, {run.arm}, repetition {run.repetition}: "
            f"tokens {dict(run.tokens)}, predicted {dict(run.predicted)}"
        )
    peers = [peer for peer in args.peer if peer != NO_PEERS]
    lacking = [peer for case in cases for peer in peers if len(journal.runs(case.name, peer)) < args.repeat]
    for peer in dict.fromkeys(lacking):
        say(f"{peer} was asked for and could not be measured; what was measured is kept")
    return 1 if miscounted or lacking else 0
