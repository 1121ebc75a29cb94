"""One seam over SentencePiece `.model` files and Hugging Face tokenizers.

    load_tokenizer(path)      a `.model` file, or a folder with tokenizer.json and/or tokenizer.model
    train_sentencepiece(...)  a new `.model` from texts

A tokenizer trained here is lossless (identity normalisation, no dummy prefix, whitespace kept, byte
fallback): decode(encode(text)) is the text unless it holds "▁" (U+2581), which stands for a space; and
encode(a) + encode(b) decodes to a + b. A SentencePiece model from elsewhere may add a dummy prefix:
encode("18") is then what encode(" 18") is without one. A model that has no exact Hugging Face form is refused
when it is loaded, not when the trained model is saved.

A folder with both files is read through tokenizer.json, the file that transformers and vLLM read; for a
folder saved here the two agree (`spm_to_hf`).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as spm_pb

from r1mega.data import spm_to_hf
from r1mega.types import UserError

CONTROL = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>"}  # in the order of their ids, from 0


class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def vocab_size(self) -> int:
        """The rows an embedding must have: one more than the largest id."""

    @property
    def bos_id(self) -> int | None:
        """Starts every sequence, where the tokenizer has one."""

    @property
    def eos_id(self) -> int:
        """The stop token."""

    @property
    def pad_id(self) -> int:
        """Fills unused places; the stop token where the tokenizer has no padding token."""

    @property
    def digest(self) -> str:
        """Changes whenever the ids could: for fingerprints of what was tokenised."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text; no bos, no eos."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, faster."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; control tokens (bos, eos, padding) are left out."""

    def save(self, folder: Path) -> None:
        """Write the files that load_tokenizer and transformers' AutoTokenizer read this tokenizer from."""


class SentencePieceTokenizer:
    """A SentencePiece BPE model; `origin` names it in errors. UserError for one that could not be saved."""

    def __init__(self, model: bytes, origin: str) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(
                f"{origin} is not a SentencePiece model (Llama 3's tokenizer.model is none either: "
                f"give the Hugging Face folder with tokenizer.json instead)"
            ) from error
        self._proto = spm_pb.ModelProto.FromString(model)
        if reason := spm_to_hf.obstacle(self._proto):
            raise UserError(
                f"{origin} cannot be used: {reason}, so transformers and vLLM could not be given the same "
                f"tokenizer. Use a BPE model with byte_fallback and identity normalisation that keeps "
                f"whitespace, or the model's Hugging Face folder with tokenizer.json"
            )
        self._model = model
        self.vocab_size: int = self._processor.get_piece_size()
        self.eos_id: int = self._processor.eos_id()
        bos, pad = self._processor.bos_id(), self._processor.pad_id()
        self.bos_id: int | None = bos if bos >= 0 else None
        self.pad_id: int = pad if pad >= 0 else self.eos_id
        self.digest = hashlib.sha256(model).hexdigest()

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._processor.encode(list(texts))

    def decode(self, ids: Iterable[int]) -> str:
        return self._processor.decode([int(i) for i in ids])

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "tokenizer.model", self._model)
        for name, text in spm_to_hf.folder_files(self._proto).items():
            _write(folder / name, text.encode())


class HuggingFaceTokenizer:
    """A folder's tokenizer.json, taken as it is. Special tokens written out in a text are recognised."""

    # All that a tokenizer can consist of; whatever of it is there is carried along unchanged.
    _FILES = (
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja", spm_to_hf.MODULE_FILE,
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        # Not AutoTokenizer: it replaces the pipeline of tokenizer.json by the one of a class that it derives
        # from config.json (see spm_to_hf), and takes 8 s to import instead of 1.
        from transformers import PreTrainedTokenizerFast

        try:
            tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # the Rust reader raises plain Exception for a malformed file
            raise UserError(f"{folder / 'tokenizer.json'} cannot be read as a tokenizer: {error}") from error
        if tokenizer.eos_token_id is None:
            raise UserError(f"{folder} names no eos_token: add it to {folder / 'tokenizer_config.json'}")
        self._backend: Any = tokenizer.backend_tokenizer
        present = (name for name in self._FILES if (folder / name).is_file())
        self._contents = {name: (folder / name).read_bytes() for name in present}
        self.vocab_size: int = max(tokenizer.get_vocab().values()) + 1
        self.eos_id: int = tokenizer.eos_token_id
        self.bos_id: int | None = tokenizer.bos_token_id
        self.pad_id: int = self.eos_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        decisive = (self._contents.get(name, b"") for name in ("tokenizer.json", "tokenizer_config.json"))
        self.digest = hashlib.sha256(b"\0".join(decisive)).hexdigest()

    def encode(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=True)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._contents.items():
            _write(folder / name, content)


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer of a `.model` file or a folder; UserError if there is none or it cannot be used."""
    path = Path(path)
    if path.is_dir():
        if (path / "tokenizer.json").is_file():
            return HuggingFaceTokenizer(path)
        path = path / "tokenizer.model"
        if not path.is_file():
            raise UserError(f"no tokenizer in {path.parent}: it has no tokenizer.json and no tokenizer.model")
    elif not path.is_file():
        raise UserError(f"no tokenizer at {path}: give a SentencePiece .model file or a Hugging Face folder")
    elif path.suffix != ".model":
        raise UserError(f"{path} is no tokenizer: give a .model file or a folder with tokenizer.json")
    return SentencePieceTokenizer(path.read_bytes(), str(path))


def train_sentencepiece(
    texts: Iterable[str], model_file: Path, *, vocab_size: int, symbols: Sequence[str] = ()
) -> Tokenizer:
    """Train a lossless BPE model on `texts` and write it to `model_file`; the same texts give the same bytes.

    symbols: pieces that are never split and never joined with their neighbours, such as the think tags.
    Digits stand alone, every byte has a piece, ids 0 to 3 are padding, bos, eos and unk.

    The result is smaller than `vocab_size` where the texts have no more pairs to join: ask its `vocab_size`.
    Raises UserError for an empty corpus, for symbols that cannot be one, and for a vocabulary that cannot
    hold the control tokens, the symbols, 256 bytes and every character of the corpus.
    """
    _check_symbols(symbols)
    # A list, for SentencePiece would turn an error that an iterator raises into a RuntimeError of its own.
    corpus = [text for text in texts if text]
    if not corpus:
        raise UserError("no text to train a tokenizer on: the corpus is empty")
    control: dict[str, Any] = {f"{kind}_piece": piece for kind, piece in CONTROL.items()}
    control |= {f"{kind}_id": i for i, kind in enumerate(CONTROL)}
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            user_defined_symbols=list(symbols),
            required_chars=spm_to_hf.SPACE,  # else a corpus without spaces could not encode one
            character_coverage=1.0,
            split_digits=True,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            max_sentence_length=2**30,  # the largest allowed; longer texts would be skipped
            num_threads=1,  # the result depends on it
            minloglevel=2,
            unk_surface="",
            **control,
        )
    except RuntimeError as error:
        if sizes := re.search(r"smaller than required_chars\. (\d+) vs (\d+)", str(error)):
            raise UserError(
                f"a tokenizer of {sizes[1]} pieces is too small: this corpus needs at least {sizes[2]} "
                f"(control tokens, symbols, 256 bytes, every character). Raise vocab_size"
            ) from error
        raise UserError(f"SentencePiece cannot train a tokenizer of {vocab_size} pieces: {error}") from error
    model_file.parent.mkdir(parents=True, exist_ok=True)
    _write(model_file, model.getvalue())
    return SentencePieceTokenizer(model.getvalue(), str(model_file))


def _check_symbols(symbols: Sequence[str]) -> None:
    for symbol in symbols:
        if not symbol or " " in symbol or spm_to_hf.SPACE in symbol or symbol in CONTROL.values():
            raise UserError(f"{symbol!r} cannot be a symbol: it is empty, has a space or is a control token")
    if len(set(symbols)) < len(symbols):
        raise UserError(f"a tokenizer symbol is given twice: {', '.join(symbols)}")


def _write(path: Path, content: bytes) -> None:
    """Write a whole file or none: a reader never sees half of it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
