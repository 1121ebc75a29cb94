"""A SentencePiece BPE model as Hugging Face tokenizer files that give the same ids, not nearly the same.

Why one merge a piece is enough. SentencePiece joins the adjacent pair whose concatenation is the best piece,
leftmost first. When a piece comes to cover a span, no pair across the span's border was joined before, so
what happened inside is what happens to the piece encoded alone, and its last join is the same in every
context. That join is the piece's one merge rule; its rank is the piece's rank by score.

Ids are equal for every text. Decoded text (with `skip_special_tokens=True`) is equal for the ids of every
text; it differs only for ids that no text gives, but a model may sample:
- byte pieces that form no valid UTF-8: SentencePiece keeps the valid characters of a run of byte pieces and
  replaces each stray byte by U+FFFD, transformers replaces every byte of the run;
- `<unk>`: transformers leaves it out; SentencePiece writes the model's own mark unless r1mega trained the
  model;
- the byte piece of a space in first place, with a dummy prefix: only transformers strips it.

That "<s>" in a text is three characters and not the control token is a setting of transformers
(split_special_tokens); the bare `tokenizers` library does not store it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from sentencepiece import sentencepiece_model_pb2 as spm_pb
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

SPACE = "▁"  # how SentencePiece writes a space inside a piece
_Type = spm_pb.ModelProto.SentencePiece

# transformers 5.19 loads a folder whose config.json says qwen2 with Qwen2Tokenizer, whatever tokenizer_class
# says (models/auto/tokenization_auto.py, MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS), and that class throws
# the normaliser and decoder of tokenizer.json away: wrong ids without a word. A folder that names a class of
# its own (auto_map) is exempt: transformers then takes tokenizer_class, or with trust_remote_code this file.
# Can go when qwen2 is off that list.
MODULE_FILE = "plain_tokenizer.py"
_MODULE_TEXT = '''"""tokenizer.json as it is: what AutoTokenizer loads with trust_remote_code=True."""

from transformers import PreTrainedTokenizerFast


class PlainTokenizer(PreTrainedTokenizerFast):
    pass
'''


def obstacle(proto: spm_pb.ModelProto) -> str | None:
    """Why this model cannot be written exactly, or None if it can."""
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    normal = [piece for piece in proto.pieces if piece.type == _Type.NORMAL]
    known = {piece.piece for piece in normal}
    scores = Counter(piece.score for piece in normal if len(piece.piece) > 1)
    symbols = any(piece.type == _Type.USER_DEFINED for piece in proto.pieces)
    checks = (
        (not proto.pieces, "it has no pieces"),
        (trainer.model_type != spm_pb.TrainerSpec.BPE, "it is not a BPE model"),
        (not trainer.byte_fallback, "it has no byte_fallback"),
        (trainer.eos_piece not in _control_pieces(proto), "it has no end-of-sequence token"),
        (bool(normalizer.precompiled_charsmap), f"it normalises text ({normalizer.name}), not by identity"),
        (normalizer.remove_extra_whitespaces, "it removes extra whitespace"),
        (not normalizer.escape_whitespaces, "it does not escape whitespace"),
        (trainer.treat_whitespace_as_suffix, "it treats whitespace as a suffix"),
        (normalizer.add_dummy_prefix and symbols, "it adds a dummy prefix and has user-defined symbols"),
        (any(piece.type == _Type.UNUSED for piece in proto.pieces), "it has unused pieces"),
        (any(count > 1 for count in scores.values()), "two of its pieces have the same score"),
        (any(set(piece) - known for piece in known), "a piece has a character that is no piece itself"),
    )
    return next((reason for failed, reason in checks if failed), None)


def folder_files(proto: spm_pb.ModelProto) -> dict[str, str]:
    """File name -> text of everything transformers reads. The model must have no `obstacle`.

    With a beginning-of-sequence token, transformers puts it first (as training does) unless
    add_special_tokens=False.
    """
    assert obstacle(proto) is None, obstacle(proto)
    config = json.dumps(_tokenizer_config(proto), indent=2, ensure_ascii=False) + "\n"
    backend = _backend(proto).to_str(pretty=True) + "\n"
    return {"tokenizer.json": backend, "tokenizer_config.json": config, MODULE_FILE: _MODULE_TEXT}


def _control_pieces(proto: spm_pb.ModelProto) -> set[str]:
    return {piece.piece for piece in proto.pieces if piece.type in (_Type.CONTROL, _Type.UNKNOWN)}


def _last_join(piece: str, scores: Mapping[str, float]) -> tuple[str, str] | None:
    """The join that completes `piece` when it is encoded alone; None if encoding never gives the piece."""
    parts = list(piece)
    join = None
    while len(parts) > 1:
        joined = [left + right for left, right in pairwise(parts)]
        candidates = [i for i, text in enumerate(joined) if text in scores]
        if not candidates:
            return None
        i = max(candidates, key=lambda i: (scores[joined[i]], -i))
        join = (parts[i], parts[i + 1])
        parts[i : i + 2] = [joined[i]]
    return join


def _backend(proto: spm_pb.ModelProto) -> Tokenizer:
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == _Type.NORMAL}
    best_first = sorted((piece for piece in scores if len(piece) > 1), key=lambda piece: -scores[piece])
    merges = [join for piece in best_first if (join := _last_join(piece, scores))]
    vocab = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    unk = proto.trainer_spec.unk_piece
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=unk, byte_fallback=True))
    prefix = proto.normalizer_spec.add_dummy_prefix
    spaces = normalizers.Replace(" ", SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefix else spaces
    undo = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*undo, decoders.Strip(" ", 1, 0)] if prefix else undo)
    special = {_Type.CONTROL: True, _Type.UNKNOWN: True, _Type.USER_DEFINED: False}
    for piece in proto.pieces:
        if piece.type in special:
            backend.add_tokens([AddedToken(piece.piece, special=special[piece.type], normalized=False)])
    if (bos := proto.trainer_spec.bos_piece) in _control_pieces(proto):
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocab[bos])]
        )
    return backend


def _tokenizer_config(proto: spm_pb.ModelProto) -> dict[str, Any]:
    names = {kind: getattr(proto.trainer_spec, f"{kind}_piece") for kind in ("bos", "eos", "unk", "pad")}
    present = _control_pieces(proto)
    return {
        **{f"{kind}_token": name for kind, name in names.items() if name in present},
        "tokenizer_class": "PreTrainedTokenizerFast",
        "auto_map": {"AutoTokenizer": [None, MODULE_FILE.removesuffix("py") + "PlainTokenizer"]},
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
    }
