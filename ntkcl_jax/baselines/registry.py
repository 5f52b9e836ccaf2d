"""Baselines that train modules inside the backbone, by name."""

from ntkcl_jax.baselines.adapters import AdapterTuning
from ntkcl_jax.baselines.coda_prompt import CodaPrompt
from ntkcl_jax.baselines.dualprompt import DualPrompt
from ntkcl_jax.baselines.ease import Ease
from ntkcl_jax.baselines.inflora import InfLora
from ntkcl_jax.baselines.l2p import L2P
from ntkcl_jax.baselines.ranpac import FirstSession
from ntkcl_jax.baselines.tuned import Tuned

TUNED: dict[str, type[Tuned]] = {
    method.name: method for method in (AdapterTuning, L2P, DualPrompt, CodaPrompt, Ease, InfLora)
}
FIRST_SESSION: dict[str, type[Tuned]] = {FirstSession.name: FirstSession}
"""Those that train on task 0 only and go on without gradients."""
