"""The scheduler and the cache as they are, over a runner that computes nothing and a clock that is set by hand."""
