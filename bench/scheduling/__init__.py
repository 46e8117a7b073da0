"""The parts of pavane bench sched: each measures one thing about the scheduler or the cache, without a model."""
