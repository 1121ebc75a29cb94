"""A policy as a Hugging Face folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from r1mega.data.tokenizers import Tokenizer
from r1mega.models import weights
from r1mega.models.hf_write import HFWriter
from r1mega.train.policy import Policy


def export(policy: Policy, tokenizer: Tokenizer, folder: Path, carry_from: Path | None) -> None:
    """Write weights, config and tokenizer, all ranks together; the folder appears when all of it is there.

    carry_from: the model folder whose tokenizer and small files are copied; None: `tokenizer` writes its own.
    """
    if policy.mesh.at.rank != 0:
        for _ in weights.whole(policy.spec, policy.mesh, weights.tensors(policy.model)):
            pass  # takes part in the exchange; rank 0 writes
        return
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed before the stage was done
    with HFWriter(folder, policy.spec.hf, carry_from) as writer:
        for name, tensor in weights.whole(policy.spec, policy.mesh, weights.tensors(policy.model)):
            writer.add(name, tensor)
        if carry_from is None:
            tokenizer.save(writer.partial)
