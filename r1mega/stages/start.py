"""What a stage starts from: a model's facts, a reader of its weights, and a tokenizer that fits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from r1mega.data.prepare import raw_texts, train_tokenizer
from r1mega.data.tokenizers import Tokenizer, load_tokenizer
from r1mega.models.build import DTYPES
from r1mega.models.families import FAMILIES
from r1mega.models.hf import HFFolder, check_inventory
from r1mega.models.init import random_tensors
from r1mega.models.spec import ModelSpec, load_spec
from r1mega.models.weights import Reader
from r1mega.parallel import on_leader
from r1mega.stages import mixture
from r1mega.stages.base import Context
from r1mega.types import UserError


@dataclass(frozen=True)
class Start:
    """carry_from: the model folder whose tokenizer and small files go along into exports; None: ours do."""

    spec: ModelSpec
    weights: Reader
    tokenizer: Tokenizer
    carry_from: Path | None


def start(ctx: Context) -> Start:
    """Find model and tokenizer as the stage's config says. Raises UserError for whatever does not fit."""
    model = ctx.config.model
    folder = ctx.inputs[model.from_stage] if model.from_stage is not None else model.path
    reader: Reader | None = None
    if folder is None:
        assert model.config is not None
        spec = load_spec(model.config)
    else:
        opened = HFFolder.open(folder)
        spec, reader = load_spec(folder), opened
        check_inventory(spec, opened.inventory)
    tokenizer = _tokenizer(ctx, folder)
    if tokenizer.vocab_size > spec.vocab:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} pieces, the model's vocab_size is {spec.vocab}: "
            "raise vocab_size, or choose a smaller tokenizer"
        )
    if reader is None:
        spec = replace(spec, hf=_complete(spec, tokenizer, model.dtype))
        reader = random_tensors(spec, ctx.run.seed, DTYPES[model.dtype])
    return Start(spec, reader, tokenizer, folder if ctx.config.tokenizer.path is None else None)


def _tokenizer(ctx: Context, folder: Path | None) -> Tokenizer:
    section = ctx.config.tokenizer
    training = section.train
    if training is not None:
        file = ctx.room / "tokenizer" / "tokenizer.model"
        on_leader(lambda: _train(ctx, file))
        return load_tokenizer(file)
    where = section.path or folder
    assert where is not None
    return load_tokenizer(where)


def _train(ctx: Context, file: Path) -> None:
    assert ctx.config.tokenizer.train is not None
    data, seed = ctx.config.data, ctx.run.seed
    texts = mixture.texts(data, seed) if data.kind == "tasks" else raw_texts(data, seed)
    train_tokenizer(texts, ctx.config.tokenizer.train, file)


def _complete(spec: ModelSpec, tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    """The config of a model made here, with what transformers and vLLM want to find in it."""
    made = {
        "architectures": [FAMILIES[spec.family].architecture],
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        "torch_dtype": dtype,
    }
    return made | dict(spec.hf)
