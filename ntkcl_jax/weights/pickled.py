"""PyTorch's pickles, through its weights-only reader. Only `ntkcl weights convert` comes here."""

import importlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ntkcl_jax.errors import WeightsError
from ntkcl_jax.weights.beside import read_beside
from ntkcl_jax.weights.reading import Tensors, from_arrays

SAFE_SINCE = (2, 6)
"""Before 2.6 torch's weights-only reader could be made to run code (CVE-2025-32434)."""
WRAPPERS = ("state_dict", "model", "model_state_dict", "teacher", "network")


def read_pickle(path: Path) -> Tensors:
    """Read a `.pth`, `.pt` or `.bin` file without running anything in it.

    Args:
        path: the file.

    Returns:
        Its tensors, also from inside `{"state_dict": ...}` and the like.

    Raises:
        WeightsError: torch is absent or too old, or the file holds more than tensors and plain values.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; expected a .pth, .pt or .bin file")
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        raise WeightsError(
            f"{path} is a pickle and needs torch to be read safely: pip install 'ntkcl-jax[torch]', or ask for the "
            "model's .safetensors file"
        ) from None
    version = tuple(int(x) for x in re.findall(r"\d+", torch.__version__)[:2])
    if version < SAFE_SINCE:
        raise WeightsError(
            f"torch {torch.__version__} reads pickles unsafely (CVE-2025-32434); expected 2.6 or newer, so upgrade it"
        )
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file makes it raise
        # torch's own words tell how to switch the safety off, so only the name that it refused is passed on.
        asked = re.search(r"(?<=GLOBAL )[\w.]+|[\w.]+(?= was not an allowed global)", str(error))
        said = f"it asks for {asked[0]}" if asked else type(error).__name__
        raise WeightsError(
            f"{path} holds more than tensors, or is damaged, and nothing in it was run ({said}); give a file with a "
            "plain state dict"
        ) from error
    return replace(from_arrays(_arrays(loaded, torch, str(path)), str(path), "pickle"), beside=read_beside(path))


def _arrays(loaded: Any, torch: Any, where: str) -> dict[str, np.ndarray]:
    """Tensors of a state dict, also one level deep, as NumPy arrays."""
    for name in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(name), dict):
            loaded = loaded[name]
    tensors = loaded.items() if isinstance(loaded, dict) else ()
    found = {name: value for name, value in tensors if isinstance(name, str) and isinstance(value, torch.Tensor)}
    if not found:
        raise WeightsError(f"{where} holds no state dict (name to tensor); give another file")
    half = {torch.bfloat16: torch.float32}  # NumPy has no bfloat16
    arrays = {}
    for name, value in found.items():
        try:
            arrays[name] = value.detach().to(half.get(value.dtype, value.dtype)).numpy()
        except (TypeError, RuntimeError) as error:  # sparse, quantised, without data, or of a type that NumPy lacks
            raise WeightsError(
                f"{where}: {name} is no plain array ({value.layout}, {value.dtype}, {value.device}); expected dense "
                "tensors, so convert it with what made the file"
            ) from error
    return arrays
