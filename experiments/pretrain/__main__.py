"""Make the shipped nano backbone: `python -m experiments.pretrain --out FILE.safetensors`.

About 20 CPU-minutes on one core. Writes the float16 weights and, beside them, a JSON with the facts of the run; then
`python -m experiments.pretrain.evaluate FILE.safetensors` measures them.
"""

import argparse
import json
import platform
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from experiments.pretrain.images import load_glyphs
from experiments.pretrain.train import Recipe, train
from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.weights import file_sha256, to_timm

METADATA = {
    "name": "nano_glyphs",
    "licence": "MIT",
    "origin": "trained from scratch by experiments.pretrain on glyphs of fonts that matplotlib ships; no digits",
    "format": "timm key names, float16",
}


def main() -> None:
    """Train, and write the weights and the facts."""
    parser = argparse.ArgumentParser(prog="python -m experiments.pretrain", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="training steps of 128 images")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="seed of weights and images")
    arguments = parser.parse_args()
    recipe, config = Recipe(steps=arguments.steps, seed=arguments.seed), BackboneConfig()
    glyphs = load_glyphs()
    print(json.dumps({"classes": len(glyphs.characters), "fields": len(glyphs.fields)}), flush=True)
    snapshot = arguments.out.with_name(arguments.out.stem + "_snapshot.safetensors")
    params, facts = train(recipe, config, glyphs, snapshot, lambda line: print(line, flush=True))
    tree = {f"backbone/{name}": np.asarray(value) for name, value in params.items()}
    half = {name: value.astype(np.float16) for name, value in to_timm(tree, config).items()}
    save_file(half, arguments.out, metadata=METADATA)
    arguments.out.chmod(0o644)  # safetensors writes files that only their owner can read
    about = {
        "sha256": file_sha256(arguments.out),
        "parameters": sum(value.size for value in half.values()),
        "backbone": asdict(config),
        "training": {
            "command": f"python -m experiments.pretrain --steps {recipe.steps} --seed {recipe.seed} --out FILE",
            "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, "
            f"jax {jax.__version__}, {jax.default_backend()}",
            "recipe": asdict(recipe),
            **facts,
        },
        "classes": "".join(glyphs.characters),
    }
    arguments.out.with_suffix(".json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps({"written": str(arguments.out), **facts}), flush=True)


if __name__ == "__main__":
    main()
