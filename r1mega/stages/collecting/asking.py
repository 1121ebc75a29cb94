"""Who is asked: a model's folder, its tokenizer, how questions are put to it, and an engine for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from r1mega.config.collect import Collect, Drawing, Speaker
from r1mega.data.chat import ChatTemplate, has_chat_template
from r1mega.data.templates import CHAT, PLACE, form
from r1mega.data.tokenizers import Tokenizer, load_tokenizer
from r1mega.evaluation.model import Asker, stops
from r1mega.models.config_json import read_config
from r1mega.rollout.options import EngineOptions
from r1mega.rollout.vllm_engine import VLLMGenerator
from r1mega.stages import mixture
from r1mega.types import Prompt, Sampling, UserError


@dataclass(frozen=True)
class Model:
    """A model that answers or writes. name: of the stage that has made it, or of its (stage's) folder."""

    name: str
    folder: Path
    tokenizer: Tokenizer

    @classmethod
    def of(
        cls, path: Path | None, from_stage: str | None, inputs: Mapping[str, Path], own: Path | None = None
    ) -> Model:
        """own: another place for the tokenizer. Raises UserError for a folder that holds no model."""
        folder = inputs[from_stage] if from_stage is not None else path
        assert folder is not None  # the config has seen to it
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} holds no model: there is no config.json; give a Hugging Face folder")
        stage = folder.parent.name if folder.name == "model" else folder.name
        return cls(from_stage or stage, folder, load_tokenizer(own or folder))

    @property
    def context(self) -> int:
        """Tokens of a prompt and its answer together, at most."""
        return read_config(self.folder).integer("max_position_embeddings")

    def tokens(self, text: str) -> int:
        """How many a text has."""
        return len(self.tokenizer.encode(text))

    def engine(self, context: int, sizes: Drawing, dtype: str) -> VLLMGenerator:
        """All ranks make it together. Raises UserError where it cannot start."""
        options = EngineOptions(
            max_model_len=context,
            max_num_seqs=sizes.max_sequences,
            kv_cache_gb=sizes.kv_cache_gb,
            dtype="float32" if dtype == "float32" else "bfloat16",
            tensor_parallel=sizes.tensor_parallel,
        )
        return VLLMGenerator(self.folder, self.tokenizer, options)

    def room(self, section: Speaker) -> int:
        """Tokens of what it reads and writes together. Raises UserError where there is none to read with."""
        context = min(section.context or self.context, self.context)
        if context <= section.max_tokens:
            raise UserError(
                f"max_tokens {section.max_tokens} of {self.name}: it holds {context} tokens, which leaves "
                "no room to read anything; lower it"
            )
        return context

    def sampling(self, section: Drawing | Speaker, seed: int) -> Sampling:
        return Sampling(
            section.max_tokens,
            temperature=section.temperature,
            top_p=section.top_p,
            seed=seed,
            stops=stops(self.folder, self.tokenizer),
        )

    def asker(self, name: str) -> Asker:
        """How a text is put to it. Raises UserError for `chat` where it has no chat template."""
        self._can_chat(name)
        return replace(Asker.of(self.folder, name), tokenizer=self.tokenizer)

    def chat(self, names: Sequence[str]) -> ChatTemplate | None:
        """Its chat template, where one of these is `chat`. Raises UserError where it has none then."""
        for name in names:
            self._can_chat(name)
        return ChatTemplate(self.folder) if CHAT in names else None

    def _can_chat(self, name: str) -> None:
        if name == CHAT and not has_chat_template(self.folder):
            raise UserError(
                f"template = 'chat': {self.folder} has no chat template; say r1_zero, toy, plain or a text "
                "with {prompt} in it"
            )


class Questions:
    """The prompts of each shard, the same in every process, and their texts without a template."""

    def __init__(self, config: Collect, model: Model, seed: int) -> None:
        """Raises UserError for a file that cannot be read and a template that the model does not have."""
        tasks = config.data.tasks or {}
        chat = model.chat(mixture.templates(tasks))
        self._around = {name: form(task.template, chat)(PLACE).split(PLACE) for name, task in tasks.items()}
        self._source = mixture.prompt_source(config.data, model.tokenizer, seed + config.sampling.seed, chat)
        self.graders = self._source.graders
        self._size, self._total = config.sampling.shard, config.sampling.prompts

    @property
    def shards(self) -> int:
        return -(-self._total // self._size)

    @property
    def skipped(self) -> dict[str, int]:
        """Questions that were too long, by task."""
        return self._source.skipped

    def state(self) -> dict[str, object]:
        """Where the next shard begins."""
        return self._source.state()

    def shard(self, number: int, state: Mapping[str, object] | None = None) -> list[Prompt]:
        """The prompts of a shard. state: where it begins; None: the shards are taken one after the other."""
        if state is not None:
            self._source.load_state(state)
        prompts = self._source.take(min(self._size, self._total - number * self._size))
        self._source.put_back(())
        return prompts

    def question(self, prompt: Prompt) -> str:
        """What was asked, without the template."""
        before, after = self._around[prompt.task]
        return prompt.text[len(before) : len(prompt.text) - len(after)]
