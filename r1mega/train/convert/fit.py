"""Whether a Hugging Face folder is a model that can be converted without losing anything."""

from __future__ import annotations

from collections import Counter

import torch

from r1mega.models.families import FAMILIES, checkpoint_shapes, copies
from r1mega.models.hf import check_inventory
from r1mega.models.spec import ModelSpec
from r1mega.train.convert.bits import boxes, different
from r1mega.train.convert.cast import dtype_name
from r1mega.train.convert.source import Weights, is_expert_bias
from r1mega.types import UserError

_EMBEDDING, _OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


def check_model(spec: ModelSpec, source: Weights) -> None:
    """Raises UserError where tensors are missing, too many, wrongly shaped, or contradict the config."""
    check_inventory(spec, source.inventory)
    if spec.tied and _OUTPUT in source.inventory and _OUTPUT not in useless(spec, source):
        raise UserError(
            f"{source.path}: {_OUTPUT} differs from {_EMBEDDING}, but config.json says that they are "
            "tied: set tie_word_embeddings to false, or remove the tensor"
        )
    for copy, original in copies(spec).items():
        if not _equal(source, copy, original):
            raise UserError(
                f"{source.path}: {copy} differs from {original}, which it is a copy of in a {spec.family} "
                "model: replace the one by the other"
            )


def useless(spec: ModelSpec, source: Weights) -> set[str]:
    """What can be left out: rope tables, and a tied model's output layer where it equals the embedding."""
    ignored = FAMILIES[spec.family].ignored(spec)
    found = {name for name in source.inventory if ignored.fullmatch(name)}
    if _OUTPUT in found and _EMBEDDING in source.inventory:
        found -= set() if _equal(source, _OUTPUT, _EMBEDDING) else {_OUTPUT}
    return found


def _equal(source: Weights, first: str, second: str) -> bool:
    """Whether two tensors of a folder are the same in every bit."""
    one, other = source.inventory[first], source.inventory[second]
    return (one.dtype, one.shape) == (other.dtype, other.shape) and not any(
        different(source.read(first, box), source.read(second, box)).any() for box in boxes(one)
    )


def dtypes(spec: ModelSpec, source: Weights) -> tuple[torch.dtype, torch.dtype]:
    """The dtype of the weights, and that of the routers' expert biases (float32 where there are none).

    Raises UserError naming the tensor that has another one than the rest of its kind.
    """
    names = checkpoint_shapes(spec)
    weights = [name for name in names if not is_expert_bias(name)]
    biases = [name for name in names if is_expert_bias(name)]
    return _one_dtype(weights, source), _one_dtype(biases, source) if biases else torch.float32


def _one_dtype(names: list[str], source: Weights) -> torch.dtype:
    counts = Counter(source.inventory[name].dtype for name in names)
    usual = counts.most_common(1)[0][0]
    odd = [name for name in names if source.inventory[name].dtype != usual]
    if odd:
        other = source.inventory[odd[0]].dtype
        raise UserError(
            f"{source.path} mixes dtypes: {counts[usual]} tensors are {dtype_name(usual)}, {len(odd)} not "
            f"({odd[0]} is {dtype_name(other)}): cast them to one dtype"
        )
    return usual
