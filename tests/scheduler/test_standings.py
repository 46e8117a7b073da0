"""Whose turn it is among tenants, against looking at all of them."""

from __future__ import annotations

import random

import pytest

from pavane.scheduler.standings import Head, Standings
from pavane.scheduler.tenants import Tenant, TenantLimits, Tenants


@pytest.mark.parametrize("seed", range(40))
def test_the_first_is_the_one_that_looking_at_all_finds(seed: int) -> None:
    rng = random.Random(seed)
    tenants = Tenants(default=TenantLimits(max_running=2), burst=rng.choice([0.0, 30.0, 1e6]))
    several = [tenants.get(str(i)) for i in range(rng.choice([1, 3, 40]))]
    heads: dict[Tenant, Head] = {}
    standings = Standings(tenants, heads.get)

    def expected() -> Tenant | None:
        able = [t for t in heads if t.running < t.limits.max_running]
        return min(able, key=lambda t: (t.service if tenants.over(t) else 0.0, heads[t]), default=None)

    def head(tenant: Tenant, serial: int) -> None:
        before = heads.get(tenant)
        heads[tenant] = float(rng.randrange(20)), serial
        if before is None or heads[tenant] < before or rng.random() < 0.5:  # a later one need not be told
            standings.changed(tenant)

    for serial in range(400):
        tenant = rng.choice(several)
        match rng.randrange(5):
            case 0 | 1:
                head(tenant, serial)
            case 2:
                heads.pop(tenant, None)
                if rng.random() < 0.5:
                    standings.changed(tenant)
            case 3:
                if tenant.running == 2:
                    tenant.running -= 1
                    standings.changed(tenant)
                else:
                    tenant.running += 1
            case 4:
                for other in several:
                    other.waiting = int(other in heads)
                    tenants.moved(other)
                tenants.serve({tenant: rng.uniform(0, 50)}, 0.1)
        assert standings.first() is expected()


def test_entries_that_no_longer_count_do_not_pile_up() -> None:
    tenants = Tenants()
    several = [tenants.get(str(i)) for i in range(10)]
    heads: dict[Tenant, Head] = {}
    standings = Standings(tenants, heads.get)
    for serial in range(10_000, 0, -1):
        tenant = several[serial % 10]
        heads[tenant] = float(serial), serial
        standings.changed(tenant)
    assert len(standings._within) <= 2 * 10 + 65
    assert standings.first() is several[1]
