"""A model's own chat template and the tokens that end its turns, as its Hugging Face folder tells them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from r1mega.data.tokenizers import Tokenizer
from r1mega.files import read_json
from r1mega.types import UserError

_THINK, _END = "<think>", "</think>"
_OPENING = re.compile(rf"{_THINK}\s*\Z")


class ChatTemplate:
    """Questions as one user turn, in the words of the folder's chat template; a `templates.Form`.

    begins_with_bos: whether the template writes the bos token; it is left out of the text, since not every
                     tokenizer reads it there.
    opening:         "<think>" and the white space behind it, where what the model goes on from ends with
                     that: then answers begin inside the thoughts. Else empty.
    ending:          what follows an answer in the template, such as "<|im_end|>".
    stop:            the tokenizer's own stop token.
    digest:          sha256 (hex) of the template.

    Raises UserError for a folder without one, and for a template that cannot be filled.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import PreTrainedTokenizerFast

        self._folder = folder
        self._tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        if not self._tokenizer.chat_template:
            raise UserError(
                f"{folder} has no chat template: say --template r1_zero, plain, or a text with {{prompt}}"
            )
        self._bos: str = self._tokenizer.bos_token or ""
        self.stop: str = self._tokenizer.eos_token or ""
        prompt = self._filled("")
        self.begins_with_bos = bool(self._bos) and prompt.startswith(self._bos)
        found = _OPENING.search(prompt)
        self.opening = found.group() if found else ""
        self.digest = hashlib.sha256(repr(self._tokenizer.chat_template).encode()).hexdigest()

    def __call__(self, question: str) -> str:
        """The prompt behind bos, special tokens written out, up to where the model goes on."""
        return self._filled(question).removeprefix(self._bos)

    def answer(self, response: str) -> str:
        """A response as the model is to give it behind the prompt.

        Where the prompt has opened the thoughts, a response does not open them again, and one without
        thoughts closes them at once. One that only closes them was given behind such a prompt: it stays.
        """
        if not self.opening or (_THINK not in response and _END in response):
            return response
        if not response.lstrip().startswith(_THINK):
            return f"\n{_END}\n\n{response.lstrip()}"
        thoughts, space = response.lstrip().removeprefix(_THINK), self.opening.removeprefix(_THINK)
        if not space:
            return thoughts
        return thoughts.removeprefix(space if thoughts.startswith(space) else " ")

    @property
    def ending(self) -> str:
        said = "an answer"
        text = self._filled("", {"role": "assistant", "content": said})
        return text.rpartition(said)[2]

    def _filled(self, question: str, *answer: dict[str, str]) -> str:
        turns = [{"role": "user", "content": question}, *answer]
        try:
            text: str = self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=not answer
            )
            return text
        except Exception as error:  # jinja's, and whatever a template raises by itself
            raise UserError(f"the chat template of {self._folder} fails: {error}") from error


def training_chat(folder: Path, tokenizer: Tokenizer) -> ChatTemplate:
    """The chat template of a model that is to be trained in it.

    Raises UserError where there is none, and where it ends answers by another token than the tokenizer's
    stop token: the model would learn to end in a way that nobody stops at.
    """
    if not has_chat_template(folder):
        raise UserError(
            f"template 'chat': {folder} has no chat template; say tokenizer.graft='r1' for R1's, or choose "
            "another template"
        )
    chat = ChatTemplate(folder)
    if tokenizer.encode(chat.ending)[:1] != [tokenizer.eos_id]:
        raise UserError(
            f"template 'chat': the one of {folder} ends an answer with {chat.ending!r}, but its tokenizer's "
            f"stop token is {chat.stop!r}; say tokenizer.graft='r1', or take a model that has both alike"
        )
    return chat


def has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    settings = read_json(folder / "tokenizer_config.json")
    return isinstance(settings, dict) and bool(settings.get("chat_template"))


def stop_tokens(folder: Path) -> tuple[int, ...]:
    """All tokens that end an answer, sorted: chat models end turns by another one than texts.

    From generation_config.json and config.json, whose eos_token_id is a number or a list of them.
    """
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        values = read_json(folder / name)
        stop = values.get("eos_token_id") if isinstance(values, dict) else None
        found.update(stop if isinstance(stop, list) else [] if stop is None else [stop])
    return tuple(sorted(found))
