"""A scheduler to which anything may happen at any time; cache, counts and tokens are checked after each thing."""

from __future__ import annotations

import random
from collections import Counter

from pavane.kernels.batch import Batch, StepResult
from pavane.scheduler.batches import Ahead
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.resolve import inputs
from pavane.scheduler.scheduler import POLICIES
from pavane.scheduler.spec import CallSpec, GroupSpec, State
from support.fingerprint import FingerprintRunner
from support.harness import Harness
from support.random_calls import RandomCalls
from support.random_rules import Rules
from support.tiers import empty

WORKFLOWS = [("", "w"), ("", "v"), ("tenant", "w")]
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
    """`calm`: nothing is cancelled and nothing fails. `chatty`: long answers, so that most steps are those of decodes
    alone. `host_pages` of a tier below the slots, if any. `done` counts what has happened, `steps` how often all was
    checked."""

    def __init__(self, seed: int, *, calm: bool = False, chatty: bool = False, host_pages: int = 0) -> None:
        self.rng = rng = random.Random(seed)
        self.calm = calm
        self.wishes = RandomCalls(rng, calm, chatty)
        self.rate = rng.choice([0.1, 0.1, 0.3]) if not chatty else 0.02
        slots = rng.choice([24, 40, 60, 90, 150, 400]) if not chatty else 600
        if host_pages:
            slots = min(slots, 60)  # so that much has to go
        bos = rng.choice([None, 0])
        self.runner = FingerprintRunner(slots)
        if host_pages:
            self.runner.add_tier(seed, faulty=not calm)
        self.h = Harness(
            self.runner,
            slots,
            max_model_len=rng.choice([120, 512]),
            bos_id=bos,
            batch_invariant=rng.random() < 0.25,
            max_running=rng.choice([1, 3, 8]),
            token_budget=rng.choice([1, 3, 8, 32, 200]) if not chatty else 200,
            policy=rng.choice(POLICIES),
            host_pages=host_pages,
        )
        self.s = self.h.scheduler
        self.s.tenants.burst = 100.0  # so that tenants come to be beyond their share in so short a time
        self.batch: Batch | None = None
        self.result: StepResult | RuntimeError | None = None  # of `batch`, if it was begun ahead
        self.kept: list[int] | None = None
        self.following: Ahead | None = None  # begins right after `batch`
        self.flying: tuple[Ahead, StepResult | RuntimeError] | None = None
        self.eager = rng.choice([0.0, 0.5, 1.0]) if not chatty else 0.9
        self.overlaps = rng.random() < 0.6
        self.live: dict[tuple[str, str], list[str]] = {}
        self.rules = Rules(self.h, bos)
        self.done: Counter[str] = Counter()
        self.steps = 0
        for key in WORKFLOWS:
            self.open(key)

    # ---- what may happen

    def open(self, key: tuple[str, str]) -> None:
        budget = self.rng.choice([0, 0, 0, 300]) if not self.calm else 0
        deadline = 60.0 if self.rng.random() < 0.1 and not self.calm else None
        ttl, priority = 1e9 if self.rng.random() < 0.8 else 5.0, self.rng.choice([None, 0, 3])
        self.s.open(*key, budget, ttl, self.h.now, priority=priority, deadline=deadline)
        self.live.setdefault(key, [])

    def submit(self) -> None:
        rules, key = self.rules, self.rng.choice(list(self.live))
        known = list(self.live[key])
        specs: list[CallSpec] = []
        groups: list[GroupSpec] = []
        for _ in range(self.rng.choice([1, 1, 2, 5])):
            spec = self.wishes.spec(known, rules.groups)
            rules.calls[spec.id] = spec
            known.append(spec.id)
            specs.append(spec)
            group = self.wishes.group([i for i in known if i not in rules.groups])
            if group is not None:
                rules.groups[group.id] = group
                known.append(group.id)
                groups.append(group)
        if self.live[key] and self.rng.random() < 0.1:  # a retry along with the new ones
            old = self.rng.choice(self.live[key])
            if old in rules.groups:
                groups.append(rules.groups[old])
            else:
                specs.append(rules.calls[old])
        self.rng.shuffle(specs)
        try:
            self.s.submit(*key, specs, self.h.now, groups)
        except RequestError as error:
            if error.reason not in REFUSALS:
                raise
            for spec in specs:
                if spec.id not in self.live[key]:
                    assert spec.id not in self.s.graph.workflow(*key).digests, "refused, and yet it is known"
                    del rules.calls[spec.id]
            return
        finally:
            rules.settle()
        self.live[key] = known

    # Those that return False have found nothing to do.

    def cancel(self) -> bool:
        key = self.rng.choice(list(self.live))
        ids = [i for i in self.live[key] if i in self.s.graph.workflow(*key).calls]
        chosen = self.rng.sample(ids, min(len(ids), self.rng.choice([1, 1, 3])))
        return bool(self.s.cancel(*key, chosen, self.rng.random() < 0.5, self.h.now))

    def seal(self) -> bool:
        key = self.rng.choice(list(self.live))
        calls = self.s.graph.workflow(*key).calls
        ids = [i for i in self.live[key] if i in calls]
        started = [i for i in ids if calls[i].started_at is not None and calls[i].spec.decode is not None]
        try:
            return bool(self.s.finish(*key, self.rng.sample(started or ids, min(len(started or ids), 2)), self.h.now))
        except RequestError as error:
            if error.reason not in REFUSALS:
                raise
            return False

    def release(self) -> bool:
        key = self.rng.choice(list(self.live))
        self.s.release(*key, self.rng.sample(self.live[key], min(1, len(self.live[key]))), self.h.now)
        return bool(self.live[key])

    def close(self) -> None:
        """And another one under the same name."""
        key = self.rng.choice(list(self.live))
        self.s.close(*key, self.h.now)
        del self.live[key]
        self.open(key)

    def expire(self) -> None:
        """Time passes: deadlines and times to live come sooner."""
        self.h.now += self.rng.choice([2.0, 10.0])

    def evict(self) -> bool:
        return self.s.cache.evict(self.rng.choice([1, 10, 1000])) > 0

    def promote(self) -> bool:
        """What a waiting call reads comes back, whoever is next."""
        tier, before = self.s.cache.tier, 0
        waiting = [c for w in self.s.graph.workflows.values() for c in w.calls.values() if c.state is State.QUEUED]
        if tier is not None and waiting:
            before = len(tier.flying)
            self.s.cache.promote(inputs(self.rng.choice(waiting)))
        return tier is not None and len(tier.flying) > before

    def preempt(self) -> bool:
        """Between two steps, as for another tenant."""
        running = list(self.s.running)
        if not running:
            return False
        self.s._steps._preempt(self.rng.choice(running))
        return True

    # ---- steps

    def begin(self) -> None:
        self.h.now += 1.0
        self.result = self.kept = None
        if self.flying is None:
            self.batch = self.s.schedule(self.h.now)
        else:
            ahead, self.result = self.flying
            self.batch, self.kept = ahead.batch, self.s.adopt(ahead, self.h.now)
            self.done["adopted" if len(self.kept) == len(ahead.items) else "adopted in part"] += 1
        if self.batch is not None:
            self.h.check_layout(self.batch)
        self.following = self.s.ahead(eager=self.overlaps) if self.rng.random() < self.eager else None
        if self.following is not None:
            self.done["ahead of those that wait"] += self.s.counts[State.QUEUED] > 0
            step = self.s._steps.step
            assert step is not None
            self.done["ahead of what ends"] += bool(step.finishing)
            self.done["ahead of prompts"] += self.batch is not None and self.batch.n_rows > len(step.items)
        if self.batch is None:
            assert not self.s.running, "calls run, and yet there is nothing to do"
            assert self.s.graph.unfinished == 0, "calls wait, and yet there is nothing to do"
        for key in [key for key in self.live if key not in self.s.graph.workflows]:
            self.done["expired"] += 1
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
            self.done["failed"] += 1
            self.s.fail_step(str(result), self.h.now)
        else:
            self.done["committed"] += 1
            self.s.commit(result if self.kept is None else result.only(self.kept), self.h.now)

    def execute(self, batch: Batch) -> StepResult | RuntimeError:
        self.runner.fail_next = not self.calm and self.rng.random() < 0.03
        try:
            return self.runner.execute(batch)
        except RuntimeError as error:
            return error

    def step(self) -> None:
        """One thing happens."""
        rng = self.rng
        if rng.random() < (self.rate if self.s.graph.unfinished else 0.5):
            verb = "submit"
        elif rng.random() < 0.3:
            wild = ["cancel", "cancel", "seal", "seal", "seal", "close", "expire"] if not self.calm else []
            between = ["preempt"] * 3 if self.batch is None and self.flying is None else []
            verb = rng.choice(["release", "release", "evict", "evict", *["promote"] * 3, *between, *wild])
        else:
            verb = "begin" if self.batch is None else "end"
        if getattr(self, verb)() is not False:
            self.done[verb] += 1
        self.check()

    def check(self) -> None:
        self.rules.check()
        self.steps += 1

    def rest(self) -> None:
        """All that was submitted comes to its end."""
        for _ in range(20_000):
            if self.batch is not None:
                self.end()
            else:
                self.begin()
            self.check()
            moving = self.s.cache.tier is not None and self.s.cache.tier.flying
            if not (self.batch or self.flying or self.s.graph.unfinished or moving):
                break
        else:
            raise AssertionError("not at rest")
        self.rules.check_all_ended()
        self.done["preempted"] += sum(outcome.receipt.preemptions for outcome in self.h.ended.values())

    def leave(self) -> None:
        """All workflows are closed: nothing is left of them."""
        for key in list(self.s.graph.workflows):
            self.s.close(*key, self.h.now)
        self.check()
        cache = self.s.cache
        cache.evict(self.h.slots)
        self.check()
        if cache.tier is not None:
            empty(cache)
            self.check()
            assert cache.tier.free == cache.tier.pages
        assert cache.pool.free == self.h.slots
        assert cache.contexts == {}
        assert cache.idle_slots == 0
        assert sum(self.s.counts[state] for state in (State.BLOCKED, State.QUEUED, State.RUNNING)) == 0
        assert self.s.graph.unfinished == 0
        assert not self.s.running
        assert not self.s.graph.workflows
        for tenant in self.s.tenants.known.values():
            assert (tenant.waiting, tenant.running, tenant.unfinished, tenant.workflows) == (0, 0, 0, 0)
            assert tenant.stored_tokens == 0


def drive(seed: int, steps: int, *, calm: bool = False, chatty: bool = False, host_pages: int = 0) -> Driver:
    """At least so many steps, and those until all is done and gone."""
    driver = Driver(seed, calm=calm, chatty=chatty, host_pages=host_pages)
    try:
        for _ in range(steps):
            driver.step()
        driver.rest()
        driver.leave()
    except BaseException as error:
        error.add_note(f"seed {seed}, step {driver.steps}, {calm=}, {chatty=}, {host_pages=}")
        raise
    return driver
