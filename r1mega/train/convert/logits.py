"""transformers on one side, Megatron-Core on the other: the same weights must be the same model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from r1mega.models import weights
from r1mega.models.hf import HFFolder
from r1mega.models.reward_head import load_facts
from r1mega.parallel import Layout, Mesh
from r1mega.train import checkpoint
from r1mega.train.batch import micro_batch
from r1mega.train.convert.fit import check_model
from r1mega.train.convert.source import Weights
from r1mega.train.policy import Policy
from r1mega.types import Sample, UserError

TOLERANCE = 1e-4
"""Of a logit in float32; measured are 0 for dense models and 2e-6 for mixtures of experts."""


def logits_gap(source: Weights, other: Weights, ids_T: Sequence[int]) -> float:
    """The largest difference of a logit: `source` in transformers, `other` in Megatron-Core, both in float32.

    ids_T: the tokens of one sequence. A checkpoint is loaded by Megatron-Core itself, as training does.
    Raises UserError where the source is no Hugging Face folder or a token is not in the vocabulary.
    """
    if not isinstance(source, HFFolder):
        raise UserError(
            f"{source.path} is a checkpoint, and transformers runs Hugging Face folders: swap them"
        )
    if source.quantised:
        raise UserError(
            f"{source.path} is in FP8, which transformers runs on some GPUs only: compare the checkpoint "
            "with what to-hf makes of it"
        )
    if load_facts(source.path).scalar:
        raise UserError(f"{source.path} is a reward model, which has no logits: leave out --logits")
    vocab = min(load_facts(source.path).vocab, load_facts(other.path).vocab)
    if not ids_T or max(ids_T) >= vocab:
        raise UserError(f"the text has no tokens, or one beyond the vocabulary of {vocab}: {list(ids_T)[:8]}")
    ours_TV, theirs_TV = _megatron(other, ids_T), _transformers(source.path, ids_T)
    if ours_TV.shape != theirs_TV.shape:
        raise UserError(f"the models differ in vocabulary: {theirs_TV.shape[1]} and {ours_TV.shape[1]}")
    return float((ours_TV - theirs_TV).abs().max())


def random_tokens(source: Weights, count: int = 64) -> list[int]:
    """The same tokens each time, over the whole vocabulary."""
    vocab = load_facts(source.path).vocab
    return torch.randint(vocab, (count,), generator=torch.Generator().manual_seed(0)).tolist()


def _transformers(folder: Path, ids_T: Sequence[int]) -> torch.Tensor:
    """float32 [T, V]."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits_TV: torch.Tensor = model(torch.tensor([list(ids_T)])).logits[0]
    return logits_TV


def _megatron(source: Weights, ids_T: Sequence[int]) -> torch.Tensor:
    """float32 [T, V]."""
    spec = load_facts(source.path)
    last = ids_T[-1]  # a micro-batch leaves out the last token, which only is a target
    sample = Sample(np.array([*ids_T, last], dtype=np.int32), np.zeros(len(ids_T) + 1, dtype=np.uint8))
    with Mesh(Layout()) as mesh:
        policy = Policy(spec, mesh, dtype="float32")
        if isinstance(source, HFFolder):
            check_model(spec, source)
            weights.load(spec, mesh, policy.model, source)
        else:
            checkpoint.load(policy, source.path, optimizer=False)
        return policy.logits(micro_batch([sample]))
