"""Config: TOML into strict typed models. `load` is the way in, `RunConfig` what comes out."""

from r1mega.config.load import load
from r1mega.config.schema import KINDS, Pretrain, RunConfig, Sft, StageConfig
from r1mega.config.section import WITHOUT_EFFECT, Section, digest
from r1mega.config.sections import (
    Checkpoint,
    Data,
    Eval,
    LayoutSizes,
    Log,
    Model,
    Tokenizer,
    TokenizerTraining,
    Train,
)

__all__ = [
    "KINDS",
    "WITHOUT_EFFECT",
    "Checkpoint",
    "Data",
    "Eval",
    "LayoutSizes",
    "Log",
    "Model",
    "Pretrain",
    "RunConfig",
    "Section",
    "Sft",
    "StageConfig",
    "Tokenizer",
    "TokenizerTraining",
    "Train",
    "digest",
    "load",
]
