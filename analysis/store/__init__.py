"""The store of kernels: chunked arrays beside the run that they were computed from, whole or absent.

RUN/analysis/kernels/seed<S>/checkpoint<C>/<outputs>/         one finished kernel over one set of n images
    kernel.json         what it is the kernel of (`KernelSpec`), and its health
    manifest.json       of every other file but timings.json: SHA-256 of JSON, the checksum at the end of a chunk
    timings.json        seconds that it took
    whole/              zarr v3 array, float64, one chunk with its CRC-32C for each pair (i, j) of tiles with i <= j
    group-<name>/       the same for the part of each parameter group
RUN/analysis/kernels/seed<S>/checkpoint<C>/<outputs>.partial/  a kernel under work
    tiles/<i>-<j>.json  checksums of a tile's chunks, written after them: without it the tile is absent
RUN/analysis/<method>/kernels/...                             the same of every other method than NTK-CL

A kernel is symmetric, so tiles below the diagonal are not stored; reading mirrors them.

    store = KernelStore("runs/digits")
    kernel = store.open(spec, resume=True)
    for i, j in kernel.spec.pairs:
        if not kernel.has(i, j):
            kernel.put(i, j, {"whole": block, **parts})
    kernel.finish(health, seconds)

    theta = load_analysis("runs/digits").kernel(seed=0, checkpoint=3, t=0, k=2)
"""

from analysis.store.reading import Analysis, StoredKernel, load_analysis
from analysis.store.spec import KernelSpec, analysis_folder, code_version, code_version_json
from analysis.store.writing import KernelStore, OpenKernel

__all__ = [
    "Analysis",
    "KernelSpec",
    "KernelStore",
    "OpenKernel",
    "StoredKernel",
    "analysis_folder",
    "code_version",
    "code_version_json",
    "load_analysis",
]
