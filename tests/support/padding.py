"""Batches as a captured graph would get them."""

from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt

from pavane.kernels.batch import Batch, Samples


def padded(batch: Batch, extra: int) -> Batch:
    """The same step with `extra` unused elements at the end of every array, as a captured graph would get it."""

    def pad(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        width = [(0, extra)] + [(0, 0)] * (array.ndim - 1)
        return np.pad(array, width, mode="edge" if len(array) else "constant")

    def arrays(value: Batch | Samples) -> dict[str, npt.NDArray[np.generic]]:
        return {
            f.name: pad(getattr(value, f.name)) for f in fields(value) if isinstance(getattr(value, f.name), np.ndarray)
        }

    samples = replace(batch.samples, **arrays(batch.samples))  # type: ignore[arg-type]
    return replace(batch, samples=samples, **arrays(batch))  # type: ignore[arg-type]
