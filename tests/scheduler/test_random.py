"""Random steps of everything that can happen to a scheduler; cache, counts and tokens are checked after each."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from support.fingerprint import FingerprintOracle, FingerprintRunner
from support.harness import Harness, decode, digest, prefill
from support.tiers import empty

from pavane.kernels.batch import Batch, StepResult
from pavane.scheduler.batches import Ahead
from pavane.scheduler.calls import Call, Group
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.scheduler import POLICIES
from pavane.scheduler.spec import CallSpec, Finish, GroupSpec, Outcome, ParentSpec, Retention, State

WORKFLOWS = [("", "w"), ("", "v"), ("tenant", "w")]
UNFINISHED = (State.BLOCKED, State.QUEUED, State.RUNNING)
# Why a call may fail in these runs.
REASONS = {
    Reason.CANCELLED,
    Reason.WORKFLOW_CLOSED,
    Reason.PARENT_FAILED,
    Reason.PARENT_CANCELLED,
    Reason.DEADLINE_EXCEEDED,
    Reason.RUNNER_FAILED,
    Reason.BUDGET_EXHAUSTED,
    Reason.CONTEXT_TOO_LONG,
    Reason.NEVER_FITS,
}
# Why a submission may be refused: over the budget, a parent that was released, what cannot fit by itself, too late.
REFUSALS = {
    Reason.NOT_A_DECODE,
    Reason.NOT_STARTED,
    Reason.BUDGET_EXHAUSTED,
    Reason.UNKNOWN_MESSAGE,
    Reason.NEVER_FITS,
    Reason.CONTEXT_TOO_LONG,
    Reason.DEADLINE_EXCEEDED,
    Reason.DEADLINE_HOPELESS,
}


class Driver:
    def __init__(self, seed: int, *, calm: bool = False, chatty: bool = False, host_pages: int = 0) -> None:
        """`chatty`: long answers, so that most steps are those of decodes alone. `host_pages` of a tier below the
        slots, if any."""
        self.rng = rng = random.Random(seed)
        self.calm = calm
        self.chatty = chatty
        self.rate = rng.choice([0.1, 0.1, 0.3]) if not chatty else 0.02
        slots = rng.choice([40, 60, 90, 150, 400]) if not chatty else 600
        self.bos = rng.choice([None, 0])
        if host_pages:
            slots = min(slots, 60)  # so that much has to go
        self.runner = FingerprintRunner(slots)
        if host_pages:
            self.runner.add_tier(seed, faulty=not calm)
        self.h = Harness(
            self.runner,
            slots,
            max_model_len=rng.choice([120, 512]),
            bos_id=self.bos,
            batch_invariant=rng.random() < 0.25,
            max_running=rng.choice([1, 3, 8]),
            token_budget=rng.choice([1, 3, 8, 32, 200]) if not chatty else 200,
            policy=rng.choice(POLICIES),
            host_pages=host_pages,
        )
        self.s = self.h.scheduler
        self.batch: Batch | None = None
        self.result: StepResult | RuntimeError | None = None  # of `batch`, if it was begun ahead
        self.kept: list[int] | None = None
        self.following: Ahead | None = None  # begins right after `batch`
        self.flying: tuple[Ahead, StepResult | RuntimeError] | None = None
        self.eager = rng.choice([0.0, 0.5, 1.0]) if not chatty else 0.9
        self.calls: dict[str, CallSpec] = {}
        self.named = 0
        self.live: dict[tuple[str, str], list[str]] = {}
        self.groups: dict[str, GroupSpec] = {}
        self.resolved: dict[str, Group] = {}
        self.settled: set[str] = set()
        accept = self.s._states.groups.accept

        def remember(group: Group) -> None:
            self.resolved[group.id] = group
            accept(group)

        self.s._states.groups.accept = remember  # type: ignore[method-assign]
        self.oracle = FingerprintOracle(self.calls, self.bos)
        for key in WORKFLOWS:
            self.open(key)

    # ---- what may happen

    def open(self, key: tuple[str, str]) -> None:
        budget = self.rng.choice([0, 0, 0, 300]) if not self.calm else 0
        deadline = 60.0 if self.rng.random() < 0.1 and not self.calm else None
        ttl, priority = 1e9 if self.rng.random() < 0.8 else 5.0, self.rng.choice([None, 0, 3])
        self.s.open(*key, budget, ttl, self.h.now, priority=priority, deadline=deadline)
        self.live.setdefault(key, [])

    def tokens(self, most: int = 9) -> list[int]:
        """Few different texts, so that much is equal or begins equally."""
        text = self.rng.choice([[3, 4, 5, 6, 7, 3, 3, 4, 9], [3, 4, 5, 5, 5, 5, 5, 5, 5], [8, 3, 4, 5, 6, 7, 3, 3, 4]])
        return text[: self.rng.randint(1, most)]

    def spec(self, known: list[str]) -> CallSpec:
        rng = self.rng
        pin, readers = rng.random() < 0.1, rng.choice([0, 0, 2])
        ttl = float(rng.randint(1, 30)) if rng.random() < 0.05 and not self.calm else None
        return replace(self.call(known), retention=Retention(pin, ttl, readers))

    def call(self, known: list[str]) -> CallSpec:
        rng = self.rng
        self.named += 1
        name = f"m{self.named}"
        recent = known[-12:]
        names = rng.sample(recent, min(len(recent), rng.choice([0, 0, 1, 1, 2, 3, 4])))
        names = [name for name in names if name not in self.groups or rng.random() < 0.7]
        chat, all_exact = rng.random() < 0.4, rng.random() < 0.2
        edges = []
        for parent in sorted(names, key=known.index) if chat else names:
            place = "packed" if chat else rng.choice(["packed", "packed", "offset", "as_encoded"])
            edges.append(
                ParentSpec(
                    parent,
                    offset=rng.randrange(60) if place == "offset" else None,
                    as_encoded=place == "as_encoded",
                    exact=all_exact or rng.random() < 0.2,
                    last_use=rng.random() < 0.04,
                )
            )
        start = rng.randrange(70) if rng.random() < 0.1 else None
        timeout = float(rng.randint(1, 40)) if rng.random() < 0.06 and not self.calm else None
        kind = rng.random() if not self.chatty else 0.6 + 0.4 * rng.random()
        if kind < 0.35:
            return prefill(name, self.tokens(), *edges, start=start, timeout=timeout, exact=rng.random() < 0.3)
        messages = [i for i in known if i not in self.groups]
        if kind < 0.45 and messages:
            return prefill(name, [], *edges, copy_of=rng.choice(messages), start=start, exact=rng.random() < 0.3)
        trailer = rng.choice([(), (), (1, 2)])
        if kind < 0.7:
            one_pass = rng.random() < 0.6
            fields = {
                "forced": tuple(self.tokens()),
                "one_pass": one_pass and not self.chatty,
                "logprobs": rng.random() < 0.5,
            }
            return decode(name, self.tokens(4), *edges, start=start, timeout=timeout, trailer=trailer, **fields)
        answer = decode(
            name,
            self.tokens(4),
            *edges,
            start=start,
            timeout=timeout,
            trailer=trailer,
            seed=rng.randrange(3),
            max_tokens=rng.choice([1, 2, 5, 20, 45]),
            end_ids=frozenset(rng.sample(range(3, 97), rng.choice([0, 10]))),
            stop_ids=frozenset(rng.sample(range(3, 97), rng.choice([0, 4]))),
            # The runner takes no notice of these, but they are kept up to date.
            repetition_penalty=rng.choice([1.0, 1.0, 1.3]) if not self.chatty else 1.0,
            frequency_penalty=rng.choice([0.0, 0.0, 0.5]) if not self.chatty else 0.0,
            logprobs=rng.choice([0, 1, 3]),
        )
        return replace(answer, max_attempts=rng.choice([1, 1, 3]))

    def group(self, known: list[str]) -> GroupSpec | None:
        messages = [i for i in known if i not in self.groups][-8:]
        if not messages or self.rng.random() > 0.15:
            return None
        self.named += 1
        members = tuple(self.rng.sample(messages, min(len(messages), self.rng.choice([1, 2, 3, 5]))))
        need, rest = self.rng.randint(1, len(members)), self.rng.random() < 0.5 and not self.calm
        return GroupSpec(f"g{self.named}", digest(self.named, members, need), members, need, rest)

    def submit(self) -> None:
        key = self.rng.choice(list(self.live))
        known = list(self.live[key])
        specs: list[CallSpec] = []
        groups: list[GroupSpec] = []
        for _ in range(self.rng.choice([1, 1, 2, 5])):
            spec = self.spec(known)
            self.calls[spec.id] = spec
            known.append(spec.id)
            specs.append(spec)
            group = self.group(known)
            if group is not None:
                self.groups[group.id] = group
                known.append(group.id)
                groups.append(group)
        if self.live[key] and self.rng.random() < 0.1:  # a retry along with the new ones
            old = self.rng.choice(self.live[key])
            if old in self.groups:
                groups.append(self.groups[old])
            else:
                specs.append(self.calls[old])
        self.rng.shuffle(specs)
        try:
            self.s.submit(*key, specs, self.h.now, groups)
        except RequestError as error:
            if error.reason not in REFUSALS:
                raise
            for spec in specs:
                if spec.id not in self.live[key]:
                    assert spec.id not in self.s.graph.workflow(*key).digests, "refused, and yet it is known"
                    del self.calls[spec.id]
            return
        finally:
            self.settle()
        self.live[key] = known

    def cancel(self) -> None:
        key = self.rng.choice(list(self.live))
        ids = [i for i in self.live[key] if i in self.s.graph.workflow(*key).calls]
        if ids:
            chosen = self.rng.sample(ids, min(len(ids), self.rng.choice([1, 1, 3])))
            self.s.cancel(*key, chosen, self.rng.random() < 0.5, self.h.now)

    def seal(self) -> None:
        key = self.rng.choice(list(self.live))
        calls = self.s.graph.workflow(*key).calls
        ids = [i for i in self.live[key] if i in calls]
        started = [i for i in ids if calls[i].started_at is not None and calls[i].spec.decode is not None]
        try:
            self.s.finish(*key, self.rng.sample(started or ids, min(len(started or ids), 2)), self.h.now)
        except RequestError as error:
            if error.reason not in REFUSALS:
                raise

    def release(self) -> None:
        key = self.rng.choice(list(self.live))
        if self.live[key]:
            self.s.release(*key, self.rng.sample(self.live[key], 1), self.h.now)

    def reopen(self) -> None:
        key = self.rng.choice(list(self.live))
        self.s.close(*key, self.h.now)
        del self.live[key]
        self.open(key)

    def begin(self) -> None:
        self.h.now += 1.0
        self.result = self.kept = None
        if self.flying is None:
            self.batch = self.s.schedule(self.h.now)
        else:
            ahead, self.result = self.flying
            self.batch, self.kept = ahead.batch, self.s.adopt(ahead, self.h.now)
            adopted[len(self.kept) == len(ahead.items)] += 1
        self.following = self.s.ahead() if self.rng.random() < self.eager else None
        if self.batch is None:
            assert not self.s.running, "calls run, and yet there is nothing to do"
            assert self.s.graph.unfinished == 0, "calls wait, and yet there is nothing to do"
        for key in [key for key in self.live if key not in self.s.graph.workflows]:  # expired
            del self.live[key]
            self.open(key)

    def end(self) -> None:
        assert self.batch is not None
        result = self.result if self.result is not None else self.execute(self.batch)
        self.flying = None
        if self.following is not None:  # after a failed step its rows read garbage, for calls that have ended
            failed = isinstance(result, RuntimeError)
            self.flying = (self.following, result if failed else self.execute(self.following.batch))
        self.batch = None
        if isinstance(result, StepResult) and result.moved is not None:
            self.s.moved(result.moved)
        if self.kept == []:
            return
        if isinstance(result, RuntimeError):
            self.s.fail_step(str(result), self.h.now)
        else:
            self.s.commit(result if self.kept is None else result.only(self.kept), self.h.now)

    def execute(self, batch: Batch) -> StepResult | RuntimeError:
        self.runner.fail_next = not self.calm and self.rng.random() < 0.03
        try:
            return self.runner.execute(batch)
        except RuntimeError as error:
            return error

    # ---- what must hold

    def settle(self) -> None:
        """What only the run decides: which members of a group came first, and where a sealed answer ends."""
        self.h.collect()
        for name in self.h.ended.keys() - self.settled:
            self.settled.add(name)
            spec, outcome = self.calls[name], self.h.ended[name]
            if outcome.state is not State.DONE:
                continue
            edges: list[ParentSpec] = []
            for edge in spec.parents:
                group = self.groups.get(edge.id)
                if group is None:
                    edges.append(edge)
                    continue
                others = {p.id for p in spec.parents} | {e.id for e in edges}
                winners = [call.id for call in self.resolved[group.id].winners if call.id not in others]
                edges += [replace(edge, id=w, offset=edge.offset if w is winners[0] else None) for w in winners]
            decode = spec.decode
            if outcome.finish is Finish.SEALED:
                assert decode is not None
                count = outcome.receipt.generated
                forced = decode.forced[:count]
                decode = replace(decode, forced=forced, max_tokens=None if forced else count)
            self.calls[name] = replace(spec, parents=tuple(edges), decode=decode)

    def check_groups(self) -> None:
        for name, group in self.resolved.items():
            spec, winners = self.groups[name], [call.id for call in group.winners]
            if group.open or group.failure is not None:
                continue
            assert len(winners) == spec.need
            assert [i for i in spec.members if i in winners] == winners
            ended = [member.ended_at for member in group.winners]
            assert all(member.state is State.DONE for member in group.winners)
            late = [m for m in group.members if m.state is State.DONE and m not in group.winners]
            assert all(m.ended_at >= max(ended) for m in late), "a later one was chosen before an earlier one"

    def check(self) -> None:
        self.settle()
        self.check_groups()
        self.h.audit()
        unfinished = [c for w in self.s.graph.workflows.values() for c in w.calls.values() if not c.state.ended]
        states = Counter(call.state for call in unfinished)
        for state in UNFINISHED:
            assert self.s.counts[state] == states[state], f"{state}: {self.s.counts}, really {states}"
        assert self.s.counts.total() == len(self.calls)
        assert self.s.graph.unfinished == len(unfinished)
        assert set(self.s.running) == {call for call in unfinished if call.state is State.RUNNING}
        for workflow in self.s.graph.workflows.values():
            assert list(workflow.open) == [c for c in workflow.calls.values() if not c.state.ended]
            assert workflow.unfinished == len(workflow.open)
            assert workflow.resting == sum(len(c.tokens) for c in workflow.calls.values() if rests(c))

    def random_step(self) -> None:
        rng = self.rng
        if rng.random() < self.rate:
            self.submit()
            self.check()
            return
        dice = rng.random()
        if dice < 0.03 and not self.calm:
            self.cancel()
        elif dice < 0.05:
            self.release()
        elif dice < 0.08 and not self.calm:
            self.seal()
        elif dice < 0.055 and not self.calm:
            self.reopen()
        elif dice < 0.11:
            self.s.cache.evict(rng.choice([1, 10, 1000]))
        elif self.batch is None:
            self.begin()
        else:
            self.end()
        self.check()

    def rest(self) -> None:
        for _ in range(20_000):
            if self.batch is not None:
                self.end()
            else:
                self.begin()
            self.check()
            if self.batch is None and self.flying is None and self.s.graph.unfinished == 0:
                break
        else:
            raise AssertionError("not at rest")
        assert set(self.h.ended) == set(self.calls)
        for message_id, outcome in self.h.ended.items():
            self.check_outcome(self.calls[message_id], outcome)

    def check_outcome(self, spec: CallSpec, outcome: Outcome) -> None:
        if outcome.state is not State.DONE:
            assert outcome.failure is not None
            assert outcome.failure.reason in REASONS
            receipt = outcome.receipt
            assert min(receipt.in_place, receipt.repositioned, receipt.encoded, receipt.reencoded) >= 0
            return
        told = self.oracle[spec.id]
        assert list(outcome.tokens) == told.tokens
        assert outcome.start == told.start
        receipt = outcome.receipt
        own = len(self.oracle[spec.copy_of].tokens) if spec.copy_of is not None else len(spec.tokens)
        visible = own + sum(len(self.oracle[p.id].tokens) for p in spec.parents)
        parts = (receipt.in_place, receipt.repositioned, receipt.encoded)
        assert sum(parts) == (0 if spec.lazy else visible)
        assert min(*parts, receipt.reencoded) >= 0
        if spec.decode is not None:
            assert receipt.generated == len(told.tokens) - own - len(spec.decode.trailer)
            assert receipt.trailer == len(spec.decode.trailer)

    def leave(self) -> None:
        for key in list(self.s.graph.workflows):
            self.s.close(*key, self.h.now)
        self.h.collect()
        self.h.audit()
        cache = self.s.cache
        cache.evict(self.h.slots)
        self.h.audit()
        if cache.tier is not None:
            empty(cache)
            self.h.audit()
            assert cache.tier.free == cache.tier.pages
        assert cache.pool.free == self.h.slots
        assert cache.contexts == {}
        assert cache.idle_slots == 0
        assert sum(self.s.counts[state] for state in UNFINISHED) == 0
        assert self.s.graph.unfinished == 0
        assert not self.s.running
        assert not self.s.graph.workflows
        for tenant in self.s.tenants.known.values():
            assert (tenant.waiting, tenant.running, tenant.unfinished, tenant.workflows) == (0, 0, 0, 0)
            assert tenant.stored_tokens == 0


def rests(call: Call) -> bool:
    """It is done, and nobody is known who will read it."""
    read = call.children or call.expected_readers or any(group.open for group in call.member_of)
    return call.state is State.DONE and not read


def drive(seed: int, steps: int, *, calm: bool, chatty: bool = False, host_pages: int = 0) -> Driver:
    driver = Driver(seed, calm=calm, chatty=chatty, host_pages=host_pages)
    for _ in range(steps):
        driver.random_step()
    driver.rest()
    driver.leave()
    return driver


adopted: Counter[bool] = Counter()  # steps that were begun ahead, by whether all of their calls went on


@pytest.mark.parametrize("calm", [True, False])
def test_random_steps_of_decodes_ahead(calm: bool) -> None:
    adopted.clear()
    for seed in range(2000, 2012):
        drive(seed, 250, calm=calm, chatty=True)
    assert adopted[True] > 100, adopted
    assert adopted[False] > 2, adopted


@pytest.mark.parametrize("seed", range(30))
def test_random_steps(seed: int) -> None:
    drive(seed, 250, calm=False)


@pytest.mark.parametrize("seed", range(1000, 1015))
def test_random_steps_without_failures(seed: int) -> None:
    """Nothing is cancelled and nothing fails: many more calls get to their end."""
    drive(seed, 250, calm=True)


@pytest.mark.parametrize("calm", [True, False])
def test_random_steps_with_a_tier_below(calm: bool) -> None:
    """Keys that were moved are those that would have been encoded; and where moving fails, they are encoded."""
    landed = failed = lost = 0
    for seed in range(3000, 3004 if calm else 3020):
        driver = drive(seed, 250, calm=calm, host_pages=[3, 12, 100][seed % 3])
        tier = driver.runner.tier
        assert tier is not None
        landed, failed, lost = landed + tier.landed, failed + tier.failed, lost + tier.lost
    assert landed > 100
    assert (failed > 15 and lost > 15) if not calm else failed == lost == 0
