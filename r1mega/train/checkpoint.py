"""Checkpoints: model, optimizer, random state and loop state of one step, complete or not there.

A checkpoint is a folder `step_000400/`:

    model/           Megatron-Core's dist_checkpointing (torch_dist): the weights, and the optimizer's state
    rng_00000.pt     the random state of each rank; with the optimizer's state only
    loop.json        whatever the stage needs to go on: step, data cursor, ...
    about.json       what is in it, and the layout that wrote it
    config.json      the Hugging Face config of the model
    hf/              tokenizer and other small files of the model folder it was converted from, if it was
    COMPLETE         written last: every file with its size and sum, so that a damaged one is named

It is written under another name, synced and renamed. Weights and optimizer do not depend on the layout that
wrote them, see train/optimizer_state.py. Which checkpoint a stage goes on from, and which it keeps, is in
train/checkpoint_keeper.py.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing

from r1mega import device
from r1mega.files import read_json
from r1mega.models.reward_head import load_facts
from r1mega.parallel import on_leader
from r1mega.train import optimizer_state
from r1mega.train.checkpoint_write import Writing
from r1mega.train.complete import MARKER, check
from r1mega.train.policy import Policy
from r1mega.types import UserError

FORMAT = 2
_REFERENCE = "reference."


@dataclass(frozen=True)
class About:
    """What a checkpoint holds.

    updates:   that AdamW has made; None without its state.
    masters:   whether float32 masters of lower weights are with it.
    reference: whether a second model is.
    layout:    that wrote it, in words; its random states are for no other.
    """

    format: int
    updates: int | None
    masters: bool
    reference: bool
    layout: str


def save(
    policy: Policy,
    folder: Path,
    loop: Mapping[str, Any],
    *,
    optimizer: bool = True,
    carried: Sequence[Path] = (),
    reference: Policy | None = None,
) -> None:
    """Write one checkpoint, all ranks together. Raises UserError when the disk is full; nothing half is left.

    optimizer: with all that training needs to go on; False: weights only.
    carried:   small files to copy into hf/, byte for byte.
    reference: a second model of the same shape, whose weights are kept too.
    """
    begin(policy, folder, loop, optimizer=optimizer, carried=carried, reference=reference).finish()


def begin(
    policy: Policy,
    folder: Path,
    loop: Mapping[str, Any],
    *,
    optimizer: bool = True,
    carried: Sequence[Path] = (),
    reference: Policy | None = None,
    group: Any = None,
    validate: bool = True,
) -> Writing:
    """As `save`, but return when everything is copied; the files are written meanwhile.

    group, validate: see `Writing`. The caller finishes it.
    """
    inner = policy.optimizer if optimizer else None
    model = _model_state(policy)
    state: dict[str, Any] = {"model": model}
    if inner is not None:
        state["optimizer"] = optimizer_state.to_save(inner, model)
    if reference is not None:
        state["reference"] = _model_state(reference, _REFERENCE)
    about = About(
        FORMAT,
        None if inner is None else optimizer_state.step_of(inner),
        inner is not None and _has_masters(policy),
        reference is not None,
        str(policy.mesh.layout),
    )
    return Writing(
        policy.mesh,
        folder,
        state,
        small={"loop.json": dict(loop), "config.json": dict(policy.spec.hf), "about.json": asdict(about)},
        carried=carried,
        rng=device.rng_state() if optimizer else None,
        live=_live(policy, reference),
        group=group,
        validate=validate,
    )


def load(
    policy: Policy, folder: Path, *, optimizer: bool = True, reference: Policy | None = None
) -> dict[str, Any]:
    """Restore a policy (and a reference) from a checkpoint; returns its loop state. Any layout will do.

    Raises UserError for a damaged checkpoint, as far as sizes show it, for one of another model, and for one
    that lacks what is asked for.
    """
    inner = policy.optimizer if optimizer else None
    on_leader(lambda: check(folder))
    about = on_leader(lambda: _fitting(policy, folder, optimizer=inner is not None, reference=reference))
    model = _model_state(policy)
    state: dict[str, Any] = {"model": model}
    if inner is not None:
        state["optimizer"] = optimizer_state.to_load(inner, model)
    if reference is not None:
        state["reference"] = _model_state(reference, _REFERENCE)
    loaded = dist_checkpointing.load(state, str(folder / "model"))
    policy.model.load_state_dict(loaded["model"], strict=False)
    if reference is not None:
        theirs = {name.removeprefix(_REFERENCE): value for name, value in loaded["reference"].items()}
        reference.model.load_state_dict(theirs, strict=False)
    if inner is not None:
        assert about.updates is not None
        optimizer_state.take(inner, loaded["optimizer"])
        optimizer_state.set_step(inner, about.updates)
    elif policy.optimizer is not None:
        policy.optimizer.reload_model_params()
    rng = folder / f"rng_{policy.mesh.at.rank:05d}.pt"
    if inner is not None and about.layout == str(policy.mesh.layout) and rng.exists():
        device.set_rng_state(torch.load(rng, weights_only=True))
    loop: dict[str, Any] = json.loads((folder / "loop.json").read_text())
    policy.version = int(loop.get("version", 0))
    return loop


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, ascending, damaged ones among them.

    A folder has its marker before it has this name: without it, it is damaged, and not one that a kill has
    left. That is a step_*.partial, with or without its marker.
    """
    names = (re.fullmatch(r"step_(\d{6,})", path.name) for path in folder.glob("step_*"))
    return sorted(int(name[1]) for name in names if name)


def complete_steps(folder: Path) -> list[int]:
    """Those of them that have their marker."""
    return [step for step in steps(folder) if (step_folder(folder, step) / MARKER).exists()]


def step_folder(folder: Path, step: int) -> Path:
    return folder / f"step_{step:06d}"


def prune(folder: Path, keep: int, keep_every: int = 0) -> None:
    """Delete all but the newest `keep` complete checkpoints, and leftovers of interrupted writes.

    keep_every: steps that are a multiple of it stay; 0 = none. So does what was found damaged and put aside.
    """
    for step in complete_steps(folder)[:-keep]:
        if keep_every and step % keep_every == 0:
            continue
        doomed = step_folder(folder, step)
        doomed.rename(
            doomed.with_name(f"{doomed.name}.partial")
        )  # a kill in between leaves nothing that looks whole
    for partial in folder.glob("*.partial"):
        shutil.rmtree(partial, ignore_errors=True)


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint in a folder, by its marker alone."""
    found = complete_steps(folder)
    return step_folder(folder, found[-1]) if found else None


def _model_state(policy: Policy, prefix: str = "") -> dict[str, Any]:
    metadata = {"dp_cp_group": policy.mesh.data_group}
    found: dict[str, Any] = policy.model.sharded_state_dict(prefix=prefix, metadata=metadata)
    return found


def _live(policy: Policy, reference: Policy | None) -> set[int]:
    """Where the tensors lie that change when training goes on."""
    found = [one for each in filter(None, (policy, reference)) for one in each.model.state_dict().values()]
    if policy.optimizer is not None:
        for part in optimizer_state.parts(policy.optimizer):
            found += [one for piece in part.pieces.values() for one in piece.tensors(part.kinds).values()]
    return {one.untyped_storage().data_ptr() for one in found if isinstance(one, torch.Tensor)}


def _has_masters(policy: Policy) -> bool:
    return bool(policy.config.params_dtype != torch.float32)


def _fitting(policy: Policy, folder: Path, *, optimizer: bool, reference: Policy | None) -> About:
    """What the checkpoint holds. Raises UserError where that is not what is asked for."""
    if not isinstance(read_json(folder / "config.json"), dict):
        raise UserError(f"the checkpoint {folder} is damaged: its config.json holds no config")
    theirs, ours = replace(load_facts(folder), hf={}), replace(policy.spec, hf={})
    if theirs != ours:
        names = [one.name for one in fields(ours) if getattr(ours, one.name) != getattr(theirs, one.name)]
        found = ", ".join(f"{name} {getattr(theirs, name)}, not {getattr(ours, name)}" for name in names)
        raise UserError(f"the checkpoint {folder} is of another model: {found}")
    about = About(**(read_json(folder / "about.json") or asdict(About(1, None, False, False, ""))))
    if optimizer and about.updates is None:
        why = "was written by an earlier version" if about.format < FORMAT else "has weights only"
        raise UserError(
            f"the checkpoint {folder} {why}: training cannot go on from it, since the optimizer's state is "
            "not in it; move it out of the way to begin anew, or give its weights to a new stage"
        )
    if optimizer and about.masters != _has_masters(policy):
        raise UserError(
            f"the checkpoint {folder} is of training in {'bfloat16' if about.masters else 'float32'}: "
            "set model.dtype to that"
        )
    if reference is not None and not about.reference:
        raise UserError(f"the checkpoint {folder} has no reference model, and this stage needs one")
    return about
