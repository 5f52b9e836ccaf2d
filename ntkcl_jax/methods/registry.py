"""Baselines that train modules inside the backbone, by name."""

from ntkcl_jax.methods.adapters import AdapterTuning
from ntkcl_jax.methods.base import Tuned
from ntkcl_jax.methods.coda_prompt import CodaPrompt
from ntkcl_jax.methods.dualprompt import DualPrompt
from ntkcl_jax.methods.ease import Ease
from ntkcl_jax.methods.inflora import InfLora
from ntkcl_jax.methods.l2p import L2P
from ntkcl_jax.readouts.ranpac import FirstSession

TUNED: dict[str, type[Tuned]] = {
    method.name: method for method in (AdapterTuning, L2P, DualPrompt, CodaPrompt, Ease, InfLora)
}
FIRST_SESSION: dict[str, type[Tuned]] = {FirstSession.name: FirstSession}
"""Those that train on task 0 only and go on without gradients."""
