"""Linear layers whose results do not depend on the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

TILE = 16


def tiled_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """F.linear for x [n, in], weight [out, in], bias [out], in tiles of TILE rows, the last one padded.

    A matrix product may choose its blocking by the number of rows, and with it the order of the sums; one fixed shape
    takes this choice away. That a row's place within the tile does not matter is tested, not promised by torch.
    """
    n = x.shape[0]
    if n % TILE:
        x = F.pad(x, (0, 0, 0, TILE - n % TILE))
    return torch.cat([F.linear(tile, weight, bias) for tile in torch.split(x, TILE)])[:n]
