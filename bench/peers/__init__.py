"""Other systems to compare with, each in a process of its own. Only benchmarks import this; the product never does."""
