"""Which kind of file it is, which backbone it holds, and whether every name in it is accounted for."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from ntkcl_jax.config import BACKBONES, BackboneConfig
from ntkcl_jax.errors import ConfigError, WeightsError
from ntkcl_jax.weights.beside import Beside, told
from ntkcl_jax.weights.google import BIG_VISION, GOOGLE
from ntkcl_jax.weights.huggingface import HUGGINGFACE, HUGGINGFACE_MODULE
from ntkcl_jax.weights.layout import PATCHES, POSITIONS, Layout, Shape, block_path
from ntkcl_jax.weights.own import OWN, read_header
from ntkcl_jax.weights.reading import Tensors
from ntkcl_jax.weights.timm import AUTHORS, TIMM

LAYOUTS = (TIMM, HUGGINGFACE, HUGGINGFACE_MODULE, GOOGLE, BIG_VISION, OWN, AUTHORS)
ENOUGH = 3
"""Names that must fit before a file counts as one of a kind."""
USUAL_HEADS = {config.dim: config.heads for config in BACKBONES.values()} | {1280: 16}
"""Attention heads of the common widths; assumed where nothing tells, as few kinds of file do."""
USUAL_HEAD_WIDTH = 64
# Parts that a plain ViT hasn't, and other networks, by what gives them away.
FOREIGN = {
    r"dist(illation)?_token": "a distillation token (a distilled DeiT)",
    r"\.ls[12]\.gamma|layer_scale|\.gamma_[12]$": "layer scale (DINOv2, DeiT III, BEiT)",
    r"reg(ister)?_token": "register tokens",
    r"attn\.[qk]_norm": "norms of queries and keys",
    r"relative_position": "relative positions (Swin, BEiT)",
    r"decoder_(blocks|embed)|mask_token$": "a masked autoencoder's decoder",
    r"mlp\.(w12|fc1_g)|SwiGLU": "a gated MLP",
    r"norm_pre|pre_layrnorm|ln_pre|^(vision|text)_model\.|^visual\.": "CLIP's or SigLIP's parts",
    r"^stages\.\d": "the stages of a ConvNeXt or a similar network",
    r"layer1\.0\.conv1|^conv1\.weight|^conv_root|block1/unit": "a ResNet's parts",
    r"word_embeddings|^transformer\.h\.|lm_head": "a language model's parts",
    r"mlp_tokens|token_mixing": "an MLP-Mixer's parts",
    r"patch_embed\.backbone": "a convolutional stem",
}


@dataclass(frozen=True)
class Architecture:
    """Backbone that a file holds, as far as its shapes tell.

    Attributes:
        dim: width of a token.
        depth: number of blocks.
        patch_size: side of a patch, pixels.
        channels: colour channels.
        hidden: width of the MLP.
        side: rows of patches; None when the positions are no class token and a square grid.
        heads: attention heads; None when nothing tells.
    """

    dim: int
    depth: int
    patch_size: int
    channels: int
    hidden: int
    side: int | None
    heads: int | None

    def __str__(self) -> str:
        """Say what messages say."""
        return f"dim={self.dim}, depth={self.depth}, patch_size={self.patch_size}, channels={self.channels}"

    def config(self, heads: int | None = None, image_size: int | None = None) -> BackboneConfig:
        """Backbone's config.

        Args:
            heads: attention heads where the file doesn't tell; None assumes those that are usual for the width.
            image_size: another side of the image than the file's, pixels.

        Returns:
            The config.

        Raises:
            WeightsError: the shapes are those of no backbone.
        """
        heads = self.heads or heads or self.usual_heads()
        ratio = self.hidden / self.dim
        if int(self.dim * ratio) != self.hidden:  # rounded down, as for 176 and 480
            ratio = math.nextafter(ratio, math.inf)
        try:
            return BackboneConfig(
                image_size=image_size or (self.side or 1) * self.patch_size,
                patch_size=self.patch_size,
                channels=self.channels,
                dim=self.dim,
                depth=self.depth,
                heads=heads,
                mlp_ratio=ratio,
            )
        except ConfigError as error:
            raise WeightsError(f"the file's shapes make no backbone: {error}") from error

    def usual_heads(self) -> int:
        """Attention heads to assume where nothing tells."""
        return USUAL_HEADS.get(self.dim) or (1 if self.dim % USUAL_HEAD_WIDTH else self.dim // USUAL_HEAD_WIDTH)

    def options(self) -> str:
        """Command-line options that fit the file."""
        c = self.config()
        values = {"image-size": c.image_size, "patch-size": c.patch_size, "dim": c.dim, "depth": c.depth}
        if self.heads or self.dim in USUAL_HEADS:
            values["heads"] = c.heads
        return " ".join(f"--model.backbone.{name} {x}" for name, x in {**values, "mlp-ratio": c.mlp_ratio}.items())


class Account(NamedTuple):
    """What a file's names are.

    `used` maps bare names to the file's own; `ignored` are the file's names that are known and left out.
    """

    layout: Layout
    used: dict[str, str]
    ignored: tuple[str, ...]
    unknown: tuple[str, ...]
    architecture: Architecture | None
    beside: Beside = Beside()


def recognise(tensors: Tensors) -> Layout:
    """Tell the kind of a file by its names.

    Raises:
        WeightsError: it is none of `LAYOUTS`; says what it looks like.
    """

    def fits(layout: Layout) -> int:
        return len({layout.bare(name) for name in tensors.shapes} & layout.flat_names(1))

    # The first block's names do, whatever the depth; where two kinds fit alike, the first of `LAYOUTS` is taken
    best = max(LAYOUTS, key=fits)
    if fits(best) >= ENOUGH:
        return best
    some = ", ".join(sorted(tensors.shapes)[:3]) or "nothing"
    raise WeightsError(
        f"{tensors.where} holds no vision transformer that is known here (it has {some}, ...)"
        f"{looks_like(tensors.shapes)}; expected the names of timm, Hugging Face, Google's .npz, the authors' release "
        "or this project"
    )


def looks_like(names: Mapping[str, object] | tuple[str, ...]) -> str:
    """Say what names give away, for messages; nothing when they don't."""
    found = [label for pattern, label in FOREIGN.items() if any(re.search(pattern, name) for name in names)]
    return f", which looks like {' and '.join(found[:2])}" if found else ""


def take_account(tensors: Tensors, layout: Layout | None = None) -> Account:
    """Sort every name of a file into used, ignored and unknown.

    Args:
        tensors: the file.
        layout: its kind; None recognises it.

    Returns:
        The account.

    Raises:
        WeightsError: the file is of no known kind, or has two names for one array.
    """
    layout = layout or recognise(tensors)
    bare: dict[str, str] = {}
    for name in tensors.shapes:
        if bare.setdefault(layout.bare(name), name) != name:
            raise WeightsError(
                f"{tensors.where} has both {bare[layout.bare(name)]} and {name}; expected one backbone, so take the "
                "other out"
            )
    # By the file's own depth: too few or many blocks are another backbone, not unknown names
    expected = layout.flat_names(layout.depth(bare))
    ignored = {b for b in bare if re.fullmatch(layout.ignored, b) and b not in expected}
    shapes = {b: tensors.shapes[name] for b, name in bare.items()}
    architecture, beside = _architecture(layout, shapes, tensors), Beside()
    if architecture is not None:
        # What the arrays tell goes before what the files beside them say
        beside = told(tensors.beside, architecture.dim, architecture.depth)
        architecture = replace(architecture, heads=architecture.heads or beside.heads)
    return Account(
        layout,
        {b: name for b, name in bare.items() if b in expected},
        tuple(sorted(bare[b] for b in ignored)),
        tuple(sorted(name for b, name in bare.items() if b not in expected | ignored)),
        architecture,
        beside,
    )


def _architecture(layout: Layout, shapes: Mapping[str, Shape], tensors: Tensors) -> Architecture | None:
    """Read the backbone off the shapes; None when the arrays that tell are missing or make no sense."""
    table = layout.names(1)
    patch, positions, hidden = (
        shapes.get(table[path][0]) for path in (PATCHES, POSITIONS, block_path(0, "fc1", "bias"))
    )
    # An incomplete file is no error yet: `check` names what is missing
    if patch is None or hidden is None or len(hidden) != 1:
        return None
    config, heads = read_header(tensors.metadata, tensors.where) if layout is OWN else (None, layout.heads(shapes))
    try:
        height, width, channels, dim = layout.patch(patch)
    except ValueError:
        return None
    # Flattened, a patch of four channels looks like a larger one of a single channel: the header knows better
    if config is not None:
        height = width = config.patch_size
        channels = config.channels
    if height != width or min(height, channels, dim, hidden[0]) < 1:
        return None
    return Architecture(dim, layout.depth(shapes), height, channels, hidden[0], _side(positions), heads)


def _side(positions: Shape | None) -> int | None:
    """Rows of a square grid behind a class token."""
    if positions is None or len(positions) != 3 or positions[1] < 2:
        return None
    side = round((positions[1] - 1) ** 0.5)
    return side if side * side == positions[1] - 1 else None


def check_names(tensors: Tensors, account: Account) -> None:
    """Check that a file holds nothing that a plain ViT hasn't.

    Raises:
        WeightsError: a name is unknown, or the file beside it tells another activation.
    """
    looks = f" (the file looks like {account.architecture})" if account.architecture else ""
    if account.unknown:
        raise WeightsError(
            f"{tensors.where} has {len(account.unknown)} more ({', '.join(account.unknown[:3])}, ...)"
            f"{looks_like(account.unknown)}; expected {account.layout.title} of a plain ViT{looks}; give another file"
        )
    if account.beside.activation not in (None, "gelu"):
        raise WeightsError(
            f"{tensors.where}: the config.json beside it says hidden_act={account.beside.activation}, expected gelu; "
            "give another file"
        )


def check(tensors: Tensors, account: Account, config: BackboneConfig) -> None:
    """Check every name and shape against a backbone; positions may have another grid.

    Raises:
        WeightsError: an array is missing, unknown or of another shape, or the file holds another backbone.
    """
    where, layout, found = tensors.where, account.layout, account.architecture
    looks = f" (the file looks like {found})" if found else ""
    check_names(tensors, account)
    if found:
        _check_architecture(where, found, config, account.beside)
    expected = layout.shapes(config)
    missing = [name for name in expected if name not in account.used]
    if missing:
        raise WeightsError(
            f"{where} lacks {len(missing)} tensors ({', '.join(missing[:3])}, ...); expected {layout.title} of a ViT "
            f"with {config.depth} blocks{looks}; give another file"
        )
    positions = layout.fixed[POSITIONS]
    for name, shape in expected.items():
        came = tensors.shapes[account.used[name]]
        # Another grid is resampled later
        if name == positions and _side(came) and came[0] == 1 and came[2] == shape[2]:
            continue
        if came != shape:
            raise WeightsError(
                f"{where}: {account.used[name]} has shape {came}, expected {shape}{looks}; give another file"
            )


def _check_architecture(where: str, found: Architecture, config: BackboneConfig, beside: Beside) -> None:
    """Refuse another backbone in one line that says how to fit it."""
    wanted = {
        "patch_size": config.patch_size,
        "channels": config.channels,
        "dim": config.dim,
        "depth": config.depth,
        "hidden": int(config.dim * config.mlp_ratio),
        "heads": config.heads,
    }
    # What the file doesn't tell (None) can't be wrong
    wrong = [n for n, value in wanted.items() if getattr(found, n) not in (value, None)]
    if not wrong:
        return
    expected = ", ".join(f"{n}={wanted[n]}" for n in wrong)
    came = ", ".join(f"{n}={getattr(found, n)}" for n in wrong)
    more = "; patch embeddings are not resampled" if "patch_size" in wrong else ""
    if "heads" in wrong and beside.heads:
        more += "; its heads are told by the config.json beside it"
    remedy = f"set {found.options()}, or give another file"
    if "channels" in wrong:  # nothing to set: images have as many as they have
        remedy = f"give weights for images of {config.channels} channels"
    elif found.heads is None and found.dim in USUAL_HEADS and "dim" in wrong:
        more += f"; the file doesn't tell its heads, {found.usual_heads()} are usual for that width"
    raise WeightsError(
        f"{where} holds another backbone: expected {expected}, got {came} (the file looks like {found}){more}; {remedy}"
    )
