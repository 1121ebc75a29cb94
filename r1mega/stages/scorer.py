"""Reward models in use: on the trainer's own ranks, which ask them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import tanh
from pathlib import Path
from typing import Any

from r1mega.algo.judgments import judged
from r1mega.config.rewards import ModelPart
from r1mega.data.chat import training_chat
from r1mega.data.preferences.tokens import Reading, within
from r1mega.data.templates import CHAT, form
from r1mega.data.tokenizers import Tokenizer, load_tokenizer
from r1mega.files import read_json, write_json
from r1mega.logs import say
from r1mega.models import weights
from r1mega.models.hf import HFFolder, check_inventory
from r1mega.models.reward_head import load_reward_spec
from r1mega.models.shards import check_layout
from r1mega.parallel import Mesh
from r1mega.train.policy import Policy
from r1mega.train.reward_model import ask
from r1mega.types import UserError


@dataclass(frozen=True)
class Card:
    """What must be known of a reward model to use it, beside its weights: reward_model.json in its folder.

    template:   what stood around prompts in training: a text with {prompt}, a name, or chat.
    max_length: the longest sequence it was trained on, in tokens.
    centre:     its mean value on held-out answers; a pairwise model's values mean nothing but by difference.
    """

    objective: str
    template: str
    max_length: int
    centre: float = 0.0

    FILE = "reward_model.json"

    def write(self, folder: Path) -> None:
        write_json(folder / self.FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Card:
        """Raises UserError where there is none, or something else."""
        values: Any = read_json(folder / cls.FILE)
        wanted = {"objective": str, "template": str, "max_length": int, "centre": float}
        if values is None or {name: type(value) for name, value in values.items()} != wanted:
            what = "is not there" if values is None else f"says {values}"
            raise UserError(
                f"{folder / cls.FILE} {what}: it tells how the model is asked, and stages of kind "
                "reward_models write it. For a model from elsewhere, write "
                '{"objective": "pairwise", "template": "User: {prompt} Assistant:", "max_length": 8192, '
                '"centre": 0.0} with what it was trained with'
            )
        return cls(**values)


def reading(tokenizer: Tokenizer, template: str, folder: Path | None) -> Reading:
    """How prompts and answers are read. folder: of the model, whose chat template "chat" is."""
    chat = training_chat(folder, tokenizer) if template == CHAT and folder is not None else None
    return Reading(tokenizer, form(template, chat))


@dataclass
class RewardScorer:
    """A `rewards.model.Scorer`. All ranks call it together with the same pairs, and get the same values.

    longest:   tokens of a prompt with its answer; of a longer one the beginning is left out, and `truncated`
               counts it.
    micro_batch_tokens: tokens of a forward pass on one data-parallel rank.
    """

    policy: Policy
    reading: Reading
    longest: int
    scale: Callable[[float], float]
    micro_batch_tokens: int
    truncated: int = field(default=0, init=False)

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        read = self.reading(pairs)
        self.truncated += sum(len(prompt) + len(answer) > self.longest for prompt, answer in read)
        samples = [judged(within(prompt, answer, self.longest), 0) for prompt, answer in read]
        budget = max(self.micro_batch_tokens, self.longest + 1)
        return [self.scale(value) for value in ask(self.policy, samples, budget)]


def load_scorers(
    parts: Mapping[str, ModelPart],
    inputs: Mapping[str, Path],
    mesh: Mesh,
    *,
    dtype: str,
    micro_batch_tokens: int,
) -> dict[str, RewardScorer]:
    """The reward models of some parts, by the part's name. inputs: folders of reward models, by stage.

    Raises UserError, before anything is loaded, for a folder that holds no such model.
    """
    folders = {name: _folder(name, part, inputs) for name, part in parts.items()}
    specs = {name: _checked(name, folder, mesh) for name, folder in folders.items()}
    found = {}
    for name, folder in folders.items():
        card, spec = Card.read(folder), specs[name]
        policy = Policy(spec, mesh, dtype=dtype)
        weights.load(spec, mesh, policy.model, HFFolder.open(folder))
        found[name] = RewardScorer(
            policy,
            reading(load_tokenizer(folder), card.template, folder),
            min(card.max_length, spec.max_positions),
            _scale(parts[name].scale, card),
            micro_batch_tokens,
        )
        say(f"rewards.{name}: {folder}, {card.objective}, scale {parts[name].scale}")
    return found


def _folder(name: str, part: ModelPart, inputs: Mapping[str, Path]) -> Path:
    if part.path is not None:
        return part.path
    assert part.from_stage is not None  # the config has seen to it
    models = inputs[part.from_stage]
    folder = models / (part.name or name)
    if not folder.is_dir():
        there = ", ".join(sorted(path.name for path in models.iterdir() if path.is_dir())) or "none"
        raise UserError(
            f"rewards.{name}: stage '{part.from_stage}' has no model '{folder.name}'; it has {there}: say "
            f"rewards.{name}.name"
        )
    return folder


def _checked(name: str, folder: Path, mesh: Mesh) -> Any:
    try:
        opened = HFFolder.open(folder)
        spec = load_reward_spec(folder)
        check_inventory(spec, opened.inventory)
        check_layout(spec, mesh.layout)
        rows = load_tokenizer(folder).vocab_size
        if rows > spec.vocab:
            raise UserError(f"its tokenizer has {rows} pieces, its vocab_size is {spec.vocab}")
        Card.read(folder)
    except UserError as error:
        raise UserError(f"rewards.{name}: {error}") from None
    return spec


def _scale(name: str, card: Card) -> Callable[[float], float]:
    if name == "raw":
        return float
    return lambda value: 0.5 + 0.5 * tanh((value - card.centre) / 2)  # the sigmoid, without overflow
