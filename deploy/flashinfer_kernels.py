"""Compiles attention kernels of FlashInfer into a package flashinfer_jit_cache, where it looks before it compiles for
itself.

python deploy/flashinfer_kernels.py [--head-dims 128] [--folder FOLDER] [--list]

With nvcc (CUDA_HOME) for the compute capabilities in FLASHINFER_CUDA_ARCH_LIST; no GPU is needed. FlashInfer's own way,
`python -m flashinfer.aot`, wants a checkout of its sources and builds hundreds of kernels; these are those without
windows and soft caps, by size of head: the tensor-core kernels of FA2 for keys and values in bfloat16 and in float8,
for all architectures, and for Hopper those of FA3 for bfloat16. A module takes minutes of one core, and 2 MB.

What was compiled on one machine serves others with FlashInfer of the same version, whatever their Python: give
--folder, carry the package there, and put the folder on the path.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HEAD_DIMS = (64, 128, 256)
HOPPER = "9."
KERNELS = "kernels"


def modules(sizes: Sequence[int]) -> Iterator[Any]:
    """The JitSpec of each."""
    import torch
    from flashinfer.jit.attention import gen_batch_prefill_module

    architectures = os.environ["FLASHINFER_CUDA_ARCH_LIST"].split()
    kinds = [("fa2", torch.bfloat16), ("fa2", torch.float8_e4m3fn)]
    if any(one.startswith(HOPPER) for one in architectures):
        kinds.append(("fa3", torch.bfloat16))
    for backend, stored in kinds:
        for size in sizes:
            yield gen_batch_prefill_module(
                backend=backend,
                dtype_q=torch.bfloat16,
                dtype_kv=stored,
                dtype_o=torch.bfloat16,
                dtype_idx=torch.int32,
                head_dim_qk=size,
                head_dim_vo=size,
                pos_encoding_mode=0,
                use_sliding_window=False,
                use_logits_soft_cap=False,
                use_fp16_qk_reduction=False,
            )


def package_text(version: str) -> str:
    """What FlashInfer asks such a package for. It takes one of its own version only."""
    return (
        '"""Kernels of FlashInfer, compiled for this image."""\n\n'
        "from pathlib import Path\n\n"
        f"__version__ = {version!r}\n\n\n"
        "def get_jit_cache_dir() -> str:\n"
        f"    return str(Path(__file__).with_name({KERNELS!r}))\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head-dims", type=int, nargs="+", choices=HEAD_DIMS, default=HEAD_DIMS, metavar="N")
    parser.add_argument("--folder", type=Path, help="where the package goes; where FlashInfer is, if not given")
    parser.add_argument("--list", action="store_true", help="names what would be compiled, and compiles nothing")
    args = parser.parse_args()
    if not os.environ.get("FLASHINFER_CUDA_ARCH_LIST"):
        print("set FLASHINFER_CUDA_ARCH_LIST, e.g. to 9.0a (H100, H200), or several with spaces", file=sys.stderr)
        return 2
    from pavane.models.gpu_toolkit import point_to_toolkit

    point_to_toolkit()
    specs = list(modules(args.head_dims))
    if args.list:
        print(*(spec.name for spec in specs), sep="\n")
        return 0
    import flashinfer
    from flashinfer.aot import copy_built_kernels
    from flashinfer.jit import build_jit_specs

    build_jit_specs(specs, verbose=True, skip_prebuilt=False)
    package = (args.folder or Path(flashinfer.__file__).parents[1]) / "flashinfer_jit_cache"
    copy_built_kernels(specs, package / KERNELS)
    (package / "__init__.py").write_text(package_text(flashinfer.__version__))
    print(f"{len(specs)} kernels in {package}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
