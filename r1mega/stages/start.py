"""What a stage starts from: a model's facts, a reader of its weights, and a tokenizer that fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from r1mega import device
from r1mega.config.collect import Collect
from r1mega.config.schema import Grpo
from r1mega.config.stage import StageConfig, TrainingConfig
from r1mega.data.chat import ChatTemplate, training_chat
from r1mega.data.graft import graft
from r1mega.data.prepare import raw_texts, train_tokenizer
from r1mega.data.templates import CHAT
from r1mega.data.tokenizers import Tokenizer, load_tokenizer
from r1mega.logs import say
from r1mega.models.backend import Backend, choose, look
from r1mega.models.blocks import Box
from r1mega.models.build import DTYPES
from r1mega.models.families import FAMILIES
from r1mega.models.hf import HFFolder, check_inventory
from r1mega.models.init import random_tensors
from r1mega.models.mtp_weights import check_copies, mtp_tensors, without_mtp
from r1mega.models.safetensors_file import TensorInfo
from r1mega.models.spec import ModelSpec, load_spec
from r1mega.models.weights import Reader
from r1mega.parallel import on_leader
from r1mega.stages import mixture
from r1mega.stages.base import Context
from r1mega.types import UserError


@dataclass(frozen=True)
class Start:
    """carry_from: the model folder whose tokenizer and small files go along into exports; None: ours do.
    backend: whose layers the model is made of.
    """

    spec: ModelSpec
    weights: Reader
    tokenizer: Tokenizer
    carry_from: Path | None
    backend: Backend

    def chat(self, templates: Iterable[str]) -> ChatTemplate | None:
        """The model's own template, where one of these is "chat". UserError where it has none to train in."""
        if CHAT not in templates:
            return None
        if self.carry_from is None:
            raise UserError(
                "template 'chat' is the one that the model's folder brings, and this model has none: choose "
                "another template, or begin with a folder"
            )
        return training_chat(self.carry_from, self.tokenizer)


def start(ctx: Context) -> Start:
    """Find model and tokenizer as the stage's config says. Raises UserError for whatever does not fit."""
    model = ctx.config.model
    backend = choose(model.backend, look(cuda=device.on_cuda()), fp8=model.fp8, cp=ctx.layout.cp)
    say(f"{ctx.name}: layers: {backend}")
    folder = ctx.inputs[model.from_stage] if model.from_stage is not None else model.path
    reader: Reader | None = None
    if folder is None:
        assert model.config is not None
        spec = _with_mtp(load_spec(model.config), model.mtp)
    else:
        opened = HFFolder.open(folder)
        spec, reader = _with_mtp(load_spec(folder), model.mtp), opened
        inventory = _inventory(spec, opened)
        check_inventory(spec, inventory)
        on_leader(lambda: check_copies(spec, opened, {name: info.shape for name, info in inventory.items()}))
        if model.changes:
            spec, reader = _changed(spec, opened, inventory, model.changes)
    refuse_context(ctx.config, spec)
    home = folder if ctx.config.tokenizer.path is None else None
    if ctx.config.tokenizer.graft is not None:
        home = _graft(ctx, home, spec)
    tokenizer = _tokenizer(ctx, home or folder)
    if tokenizer.vocab_size > spec.vocab:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} pieces, the model's vocab_size is {spec.vocab}: "
            "raise vocab_size, or choose a smaller tokenizer"
        )
    if reader is None:
        spec = replace(spec, hf=_complete(spec, tokenizer, model.dtype))
        reader = random_tensors(spec, ctx.run.seed, DTYPES[model.dtype])
    if ctx.config.tokenizer.graft is not None:
        ids = {
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": tokenizer.eos_id,
            "pad_token_id": tokenizer.pad_id,
        }
        spec = replace(spec, hf={**spec.hf, **ids})
    return Start(spec, reader, tokenizer, home, backend)


def _graft(ctx: Context, folder: Path | None, spec: ModelSpec) -> Path:
    """A folder in the stage's room with the model's tokenizer, R1's tokens and R1's chat template."""
    if folder is None:
        raise UserError(
            "tokenizer.graft: it is the model's own tokenizer that is given R1's tokens; leave out path"
        )
    home = ctx.room / "tokenizer"
    on_leader(lambda: graft(folder, home, spec.vocab))
    return home


def _with_mtp(spec: ModelSpec, how: str) -> ModelSpec:
    """The model with or without its multi-token-prediction layers, as `model.mtp` says."""
    if how == "train" and not spec.mtp_layers:
        raise UserError(
            "model.mtp = 'train': the model has no multi-token-prediction layers (num_nextn_predict_layers "
            "is 0 or missing): use 'drop'"
        )
    if how == "drop" and spec.mtp_layers:
        say(
            f"the model's {spec.mtp_layers} multi-token-prediction layer(s) are left out, here and in the "
            "export; model.mtp = 'keep' or 'train' has them stay"
        )
        return without_mtp(spec)
    return spec


def _inventory(spec: ModelSpec, opened: HFFolder) -> dict[str, TensorInfo]:
    """What the folder holds, without the tensors of layers that are left out."""
    gone = set() if spec.mtp_layers else mtp_tensors(load_spec(opened.config))
    return {name: info for name, info in opened.inventory.items() if name not in gone}


def _changed(
    spec: ModelSpec, opened: HFFolder, inventory: dict[str, TensorInfo], changes: Mapping[str, Any]
) -> tuple[ModelSpec, Reader]:
    """The model with keys of its config.json replaced. Raises UserError where its weights do not fit then."""
    changed = load_spec({**spec.hf, **changes})
    reader: Reader = opened
    if spec.tied and not changed.tied:
        reader = Untied(opened)
        inventory = {**inventory, "lm_head.weight": inventory["model.embed_tokens.weight"]}
    try:
        check_inventory(changed, inventory)
    except UserError as error:
        raise UserError(f"model.changes {dict(changes)}: the weights do not fit that: {error}") from None
    return changed, reader


@dataclass(frozen=True)
class Untied:
    """Weights of a model whose output layer was its embedding, with an output layer that begins as a copy."""

    reader: Reader

    def read(self, name: str, box: Box) -> torch.Tensor:
        return self.reader.read("model.embed_tokens.weight" if name == "lm_head.weight" else name, box)


def refuse_context(config: StageConfig, spec: ModelSpec) -> None:
    """Raise UserError where sequences are longer than the model says that it can read."""
    longest, key = 0, "data.max_length"
    if isinstance(config, Grpo):
        longest, key = config.data.max_prompt + config.rollout.longest, "data.max_prompt + rollout.max_tokens"
    elif isinstance(config, TrainingConfig):
        longest = config.data.max_length
    elif isinstance(config, Collect) and config.data is not None:
        longest = config.data.max_prompt + config.sampling.max_tokens
        key = "data.max_prompt + sampling.max_tokens"
    if longest > spec.max_positions:
        raise UserError(
            f"{key} is {longest}, but the model's max_position_embeddings is {spec.max_positions}: lower it, "
            f"or extend the context with model.changes.max_position_embeddings={longest} (and rope_theta or "
            "rope_scaling, where its family wants that)"
        )


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
    assert isinstance(ctx.config, TrainingConfig)
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
