"""Every setting of a run, typed and frozen; a config is plain data and imports nothing heavy."""

from ntkcl_jax.config.data import DataConfig as DataConfig
from ntkcl_jax.config.devices import HostsConfig as HostsConfig
from ntkcl_jax.config.devices import MeshConfig as MeshConfig
from ntkcl_jax.config.methods import METHODS as METHODS
from ntkcl_jax.config.methods import BaselineConfig as BaselineConfig
from ntkcl_jax.config.methods import ObjectiveConfig as ObjectiveConfig
from ntkcl_jax.config.methods import ReadoutConfig as ReadoutConfig
from ntkcl_jax.config.model import BACKBONES as BACKBONES
from ntkcl_jax.config.model import BackboneConfig as BackboneConfig
from ntkcl_jax.config.model import ModelConfig as ModelConfig
from ntkcl_jax.config.model import Variant as Variant
from ntkcl_jax.config.run import ComputeConfig as ComputeConfig
from ntkcl_jax.config.run import OptimizerConfig as OptimizerConfig
from ntkcl_jax.config.run import RunConfig as RunConfig
