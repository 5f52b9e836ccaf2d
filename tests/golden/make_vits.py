"""Make `vits.npz`: class tokens that timm and transformers compute for small ViTs of made-up weights.

    python -m tests.golden.make_vits        (needs torch, timm, transformers and pillow; nothing is downloaded)

The weights are not stored: `tests.support.vits.draw` makes them again from the libraries' names and shapes.
Made with torch 2.13.0 (CPU), timm 1.0.31, transformers 5.23.0. timm imports torchvision, of which no CPU build was at
hand, for image transforms only; a stand-in without contents is enough.
"""

import importlib.abc
import importlib.machinery
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.vits import FIXTURE, OTHER_SIDES, SIZES, draw, google_shapes, pixels


class Nothing(type):
    """A class with every attribute."""

    def __getattr__(cls, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing(name, (), {})


class StandIn(types.ModuleType):
    """A module with every attribute."""

    __path__: list[str] = []  # noqa: RUF012  (makes it a package)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing(name, (), {})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `torchvision` and everything in it."""

    def find_spec(self, name: str, path: object, target: object = None) -> Any:
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> StandIn:
        return StandIn(spec.name)

    def exec_module(self, module: Any) -> None:
        pass


def nchw(images: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def shapes_json(shapes: dict[str, tuple[int, ...]]) -> np.ndarray:
    return np.frombuffer(json.dumps({n: list(s) for n, s in shapes.items()}).encode(), np.uint8)


def timm_vit(size: str, side: int) -> Any:
    from timm.models.vision_transformer import VisionTransformer

    c = SIZES[size]
    return VisionTransformer(
        img_size=side, patch_size=c.patch_size, embed_dim=c.dim, depth=c.depth, num_heads=c.heads, num_classes=5
    ).eval()


def timm_case(size: str) -> dict[str, np.ndarray]:
    import torch
    from timm.layers import resample_abs_pos_embed

    c, side = SIZES[size], OTHER_SIDES[size]
    model = timm_vit(size, c.image_size)
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    state = {name: torch.from_numpy(x) for name, x in draw(shapes).items()}
    model.load_state_dict(state)
    grid = side // c.patch_size
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], [grid, grid], num_prefix_tokens=1)
    other = timm_vit(size, side)
    other.load_state_dict(state)
    return {
        "names": shapes_json(shapes),
        "features": model.forward_features(nchw(pixels(c.image_size)))[:, 0].numpy(),
        "other": other.forward_features(nchw(pixels(side)))[:, 0].numpy(),
        "positions": state["pos_embed"].numpy(),
    }


def google_case(size: str) -> dict[str, np.ndarray]:
    """timm's own reader of Google's files takes arrays under Google's names."""
    c, shapes = SIZES[size], google_shapes(SIZES[size])
    model = timm_vit(size, c.image_size)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "vit.npz", **draw(shapes))
        model.load_pretrained(str(Path(folder) / "vit.npz"))
    features = model.forward_features(nchw(pixels(c.image_size)))[:, 0].numpy()
    return {"names": shapes_json(shapes), "features": features}


def huggingface_case(size: str, kind: str) -> dict[str, np.ndarray]:
    """Names are those that `save_pretrained` writes; `from_pretrained` reads the drawn weights under them."""
    import safetensors.numpy
    from transformers import ViTConfig, ViTForImageClassification, ViTModel

    c = SIZES[size]
    config = ViTConfig(
        hidden_size=c.dim,
        num_hidden_layers=c.depth,
        num_attention_heads=c.heads,
        intermediate_size=4 * c.dim,
        image_size=c.image_size,
        patch_size=c.patch_size,
        num_labels=5,
        layer_norm_eps=1e-6,  # of the weights' training; the library's 1e-12 moves these features by up to 1.5e-5
    )
    cls = ViTForImageClassification if kind == "classifier" else ViTModel
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        cls(config).save_pretrained(folder)
        shapes = {name: x.shape for name, x in safetensors.numpy.load_file(file).items()}
        safetensors.numpy.save_file(draw(shapes), file, metadata={"format": "pt"})
        model, report = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(report[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    vit = model.eval().vit if kind == "classifier" else model.eval()
    features = vit(nchw(pixels(c.image_size))).last_hidden_state[:, 0].numpy()
    return {"names": shapes_json(shapes), "features": features}


def main() -> None:
    """Write the fixture."""
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    made = {f"huggingface/{size}": huggingface_case(size, "model") for size in ("small", "base")}
    made |= {f"huggingface_classifier/{size}": huggingface_case(size, "classifier") for size in ("tiny", "large")}
    sys.meta_path.insert(0, Finder())  # after transformers, which asks for torchvision's version
    made |= {f"timm/{size}": timm_case(size) for size in SIZES}
    made |= {f"google/{size}": google_case(size) for size in ("tiny", "base")}
    np.savez_compressed(FIXTURE, **{f"{key}/{part}": x for key, case in made.items() for part, x in case.items()})
    print(FIXTURE, FIXTURE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
