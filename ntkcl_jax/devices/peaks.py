"""What devices could do at best, for model-FLOP utilisation: a training step's FLOPs over time, over this."""

from typing import Literal

PEAKS: tuple[tuple[str, float, float], ...] = (
    ("H100 PCIe", 756, 378),
    ("H100 NVL", 835, 418),
    ("H100", 989, 495),
    ("H200 NVL", 835, 418),
    ("H200", 989, 495),
    ("B200", 2250, 1125),
    ("A100", 312, 156),
    ("A10G", 70, 35),
    ("L40S", 362, 183),
    ("L40", 181, 90),
    ("L4", 121, 60),
    ("TPU v4", 275, 275),
    ("TPU v5 lite", 197, 197),
    ("TPU v5e", 197, 197),
    ("TPU v5", 459, 459),
    ("TPU v6", 918, 918),
)
"""Part of JAX's `device_kind`, and TFLOP/s of dense matrix products by the makers' data sheets: bfloat16, float32.

JAX multiplies float32 matrices as TensorFloat-32 on these GPUs, in one bfloat16 pass on TPUs, unless told otherwise.
"""


def peak_tflops(device_kind: str, dtype: Literal["float32", "bfloat16"]) -> float | None:
    """Look up what a device could do.

    Args:
        device_kind: as JAX names the device.
        dtype: arithmetic of the run (`compute.dtype`).

    Returns:
        TFLOP/s; None for a device that isn't listed, a CPU for example.

    Example:
        >>> peak_tflops("NVIDIA A100-SXM4-80GB", "bfloat16"), peak_tflops("NVIDIA RTX A1000", "bfloat16")
        (312, None)
    """
    # As words: an A1000 is no A100. The first that fits counts: names stand before those that are a part of them
    words = f" {device_kind.replace('-', ' ')} "
    found = [(bfloat16, float32) for name, bfloat16, float32 in PEAKS if f" {name} " in words]
    return (found[0][0] if dtype == "bfloat16" else found[0][1]) if found else None
