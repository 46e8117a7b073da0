"""What the plan's constants rest on: a first run on a card measures these before anything is tuned."""

from pavane.bench.gpu.spike.crossover import SECTION as CROSSOVER
from pavane.bench.gpu.spike.graphs import SECTION as GRAPHS
from pavane.bench.gpu.spike.jit import SECTION as JIT
from pavane.bench.gpu.spike.merging import SECTION as MERGING
from pavane.bench.gpu.spike.parts import SECTION as PARTS
from pavane.bench.gpu.spike.planning import SECTION as PLANNING
from pavane.bench.gpu.spike.segments import SECTION as SEGMENTS
from pavane.bench.gpu.spike.small import SECTION as SMALL_OPERATIONS

SECTIONS = (JIT, SMALL_OPERATIONS, SEGMENTS, MERGING, CROSSOVER, GRAPHS, PARTS, PLANNING)
__all__ = ["SECTIONS"]
