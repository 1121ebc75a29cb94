"""Reward models: a family's network that ends with a scalar head instead of the vocabulary.

In a folder they are transformers' *ForSequenceClassification with one label: the same tensors, `score.weight`
[1, hidden] in place of lm_head. S tokens of this rank, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from r1mega import device
from r1mega.models.blocks import Box
from r1mega.models.config_json import read_config
from r1mega.models.families import FAMILIES
from r1mega.models.families.parts import HEAD
from r1mega.models.init import random_tensors
from r1mega.models.mtp_weights import without_mtp
from r1mega.models.spec import ModelSpec, load_spec
from r1mega.models.weights import Reader
from r1mega.types import UserError


class ScoreLayer(torch.nn.Module):
    """The head in the place of Megatron-Core's output layer: [S, 1, H] -> float32 [S, 1, 1].

    Each TP rank holds all of it and sees its own tokens, so its gradient is summed over TP ranks.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        size = (1, config.hidden_size)
        self.weight = torch.nn.Parameter(
            torch.empty(size, dtype=config.params_dtype, device=device.current())
        )
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, hidden: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        # In float32: what counts is the difference of two values, which may be small beside them.
        return torch.nn.functional.linear(hidden.float(), self.weight.float()), None


def reward_spec(spec: ModelSpec) -> ModelSpec:
    """A language model's facts -> those of a reward model made from it, its config for export included."""
    config = {key: value for key, value in spec.hf.items() if key not in ("num_labels", "problem_type")}
    config |= {
        "architectures": [_architecture(spec.family)],
        "id2label": {"0": "LABEL_0"},  # this is how transformers says that there is one label
        "label2id": {"LABEL_0": 0},
    }
    if config.get("pad_token_id") == config.get("eos_token_id"):
        # transformers takes the value at the last token that is no padding, which must be the stop token.
        config["pad_token_id"] = None
    return without_mtp(replace(spec, scalar=True, tied=False, hf=config))


def load_reward_spec(folder: Path) -> ModelSpec:
    """The facts of a reward model's folder. Raises UserError where it is something else."""
    values = read_config(folder).values
    family = values.get("model_type")
    if family not in FAMILIES:
        return load_spec(folder)  # which says so
    wanted = [_architecture(family)]
    if values.get("architectures") != wanted or len(values.get("id2label", ())) != 1:
        raise UserError(
            f"{folder} is no reward model: config.json says architectures {values.get('architectures')} with "
            f"{len(values.get('id2label', ())) or 'no'} labels, and {wanted} with one is needed. A stage of "
            "kind reward_models makes one"
        )
    spec = load_spec({**values, "architectures": [FAMILIES[family].architecture]})
    return without_mtp(replace(spec, scalar=True, tied=False, hf=values))


def load_facts(folder: Path) -> ModelSpec:
    """Of a language model's folder or checkpoint, or of a reward model's, which has a scalar head.

    Raises UserError as `load_spec` and `load_reward_spec` do.
    """
    architectures = read_config(folder).values.get("architectures")
    scalar = architectures is not None and "ForSequenceClassification" in str(architectures)
    return load_reward_spec(folder) if scalar else load_spec(folder)


@dataclass(frozen=True)
class WithNewHead:
    """A language model's weights with a random head: normal with standard deviation 1 / sqrt(hidden)."""

    body: Reader
    head: Reader

    @classmethod
    def on(cls, body: Reader, spec: ModelSpec, seed: int, dtype: torch.dtype) -> WithNewHead:
        """spec: of the reward model."""
        assert spec.scalar
        return cls(body, random_tensors(spec, seed, dtype))

    def read(self, name: str, box: Box) -> torch.Tensor:
        return (self.head if name == HEAD else self.body).read(name, box)


def _architecture(family: str) -> str:
    return FAMILIES[family].architecture.replace("CausalLM", "SequenceClassification")
