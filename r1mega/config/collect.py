"""Making a data set with a model: what is asked, what is kept, what is rewritten, what is added.

"R1" in a description is the DeepSeek-R1 paper and its supplement. docs/data_sets.md explains the stage.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from r1mega.config.rl import Heat
from r1mega.config.section import FilePath, Section
from r1mega.config.sections import Data, Names, Rate, only_one
from r1mega.config.stage import Artifact, StageConfig

Fraction = Annotated[float, Field(ge=0, le=1)]
TopP = Annotated[float, Field(gt=0, le=1)]


class Drawing(Section):
    """How answers are drawn. One shard after the other; a killed run goes on with the next one."""

    prompts: PositiveInt = Field(description="questions to ask; a file starts over when it has fewer")
    samples: PositiveInt = Field(
        default=16, description="answers to each (R1's rejection sampling: many, number not public)"
    )
    temperature: Heat = Field(default=1.0, description="of sampling (R1's cold start: 1.0)")
    top_p: TopP = Field(default=1.0, description="smallest share of probability to draw from; 1 = all")
    max_tokens: PositiveInt = Field(default=32_768, description="longest answer, in tokens (R1: 32,768)")
    shard: PositiveInt = Field(
        default=256,
        description="questions a shard: what is done at a time, over all ranks, and lost at most by a kill",
    )
    seed: NonNegativeInt = Field(
        default=0, description="added to the run's seed: another one draws other questions and answers"
    )
    max_sequences: PositiveInt = Field(default=128, description="answers that one engine draws at a time")
    kv_cache_gb: Rate = Field(default=1.0, description="GiB of an engine's key-value cache, on each rank")
    tensor_parallel: PositiveInt = Field(
        default=1, description="ranks that form one engine; 1 = every rank has its own, and shares the work"
    )


class Filters(Section):
    """Which answers are kept. Each drops for a reason of its own, which report.json counts."""

    correct: bool = Field(default=True, description="only answers that are right by their task's rule")
    where: Literal["answer_tag", "final"] = Field(
        default="final",
        description="where the rule looks: only in <answer>, or also behind the thoughts, as in \\boxed",
    )
    sandbox: Literal["bubblewrap", "limits"] = Field(
        default="bubblewrap", description="what programs run in; see rewards.accuracy.sandbox"
    )
    ended: bool = Field(default=True, description="only answers that were not cut at the limit")
    format: Literal["think_first", "think_answer", "none"] = Field(
        default="think_first",
        description="think_first: a think block, then text; think_answer: a think and an answer block, "
        "nothing else; none: anything, and what has no think block is taken for thoughts as a whole",
    )
    summary: bool = Field(default=True, description="only answers with a word behind the thoughts")
    language: str | None = Field(
        default="question",
        description="of the thoughts: ISO 639-1 code; question = each question's own; none = any",
    )
    language_share: Fraction = Field(
        default=0.9, description="least share of the thoughts' words in it (R1 drops mixed ones; 0.9 is ours)"
    )
    ngram: PositiveInt = Field(default=20, description="words of an n-gram, for `repeated`")
    repeated: Fraction = Field(
        default=0.1, description="largest share of n-grams that came before; 1 = any (ours)"
    )
    min_tokens: PositiveInt = Field(default=1, description="shortest answer, in tokens")
    max_tokens: PositiveInt | None = Field(default=None, description="longest answer, in tokens; none = any")
    paragraph: PositiveInt | None = Field(
        default=4000,
        description="longest paragraph of the thoughts, in characters; none = any (R1 drops long ones; 4,000 "
        "is ours)",
    )
    code_blocks: bool = Field(default=False, description="thoughts with code blocks, too (R1 drops them)")
    duplicates: bool = Field(
        default=False,
        description="also answers that are the same but for case and space, to the same question",
    )
    per_prompt: PositiveInt | None = Field(
        default=None, description="answers to one question that are kept, at most, the first ones; none = all"
    )
    total: PositiveInt | None = Field(
        default=None, description="drawn answers that are kept in all; drawing ends when there are so many"
    )


class GiveUp(Section):
    """When to stop early: a model that gives nothing usable should not draw for days."""

    after: PositiveInt = Field(default=1024, description="answers after which this is looked at")
    share: Fraction = Field(default=0.01, description="of them that must have been kept")


class Speaker(Section):
    """Another model that reads and writes here: exactly one of path and from_stage."""

    takes = "model"
    rivals: ClassVar = (("path", "from_stage"),)

    path: FilePath | None = Field(default=None, description="its Hugging Face folder")
    from_stage: str | None = Field(default=None, description="name of an earlier stage that has made it")
    prompt: FilePath | None = Field(
        default=None,
        description="file with what it is told, with {question} and {response}; none = the package's own",
    )
    template: str = Field(
        default="chat",
        description="chat = the model's own form, else r1_zero, toy, plain or a text with {prompt}",
    )
    temperature: Annotated[float, Field(ge=0, le=2)] = Field(
        default=0.6, description="of sampling; 0 = greedy"
    )
    top_p: TopP = Field(default=0.95, description="smallest share of probability to draw from; 1 = all")
    max_tokens: PositiveInt = Field(default=8192, description="longest text that it writes, in tokens")
    context: PositiveInt | None = Field(
        default=None, description="tokens of what it reads and writes together; none = the model's own"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        only_one(self, self.rivals[0])
        return self


class Judge(Speaker):
    """A language model that grades where no rule can, from 0 to 10."""

    tasks: Names | None = Field(
        default=None,
        description="tasks of the mixture whose answers it grades instead of their rule; none = all of them, "
        "after the rule",
    )
    least: Fraction = Field(default=0.7, description="mean score / 10 from which an answer is kept (ours)")
    votes: PositiveInt = Field(default=1, description="judgments an answer, averaged")
    reference: bool = Field(
        default=True,
        description="show it the gold answer (R1: ground truth and answer are fed to DeepSeek-V3)",
    )
    whole: bool = Field(default=False, description="show it the thoughts, too, not what stands behind alone")


class Writer(Speaker):
    """A language model that writes an answer anew, or a part of it. That is filtered like any answer."""

    otherwise: Literal["keep", "drop"] = Field(
        default="keep", description="where what it writes is of no use: keep the answer as it was, or drop it"
    )


class General(Section):
    """Rows from elsewhere that are mixed in."""

    kind: Literal["file", "toy"] = Field(
        default="file", description="file = rows of `path`; toy = generated demonstrations"
    )
    path: FilePath | None = Field(
        default=None, description="a .jsonl, .json, .csv or .parquet file; rows of chats are read as well"
    )
    prompt_key: str = Field(default="prompt", description="key of the prompt, where a row is no chat")
    response_key: str = Field(default="response", description="key of the response, where a row is no chat")
    category: str = Field(
        description="its line in the table (R1: writing, factual QA, self-cognition, translation ...)"
    )
    count: PositiveInt | None = Field(
        default=None, description="rows to take, drawn by the seed; none = all (R1: about 200K in all)"
    )
    thoughts: Literal["none", "keep", "make"] = Field(
        default="keep",
        description="none: think blocks are taken out; keep: as the rows are; make: chain_of_thought's model "
        "writes them (R1: for some of the data, none for simple requests)",
    )

    @model_validator(mode="after")
    def _has_rows(self) -> Self:
        if (self.kind == "file") != (self.path is not None):
            raise ValueError("kind 'file' needs path, a file of rows; kind 'toy' has no use for it")
        if self.kind == "toy" and self.count is None:
            raise ValueError("kind 'toy' never ends: say count, the rows to take")
        return self


class Decontaminate(Section):
    """Rows that share an n-gram of words with a benchmark are dropped."""

    against: FilePath = Field(description="a benchmark's file, or a folder of them")
    ngram: PositiveInt = Field(default=10, description="words of an n-gram (R1: 10)")


class Collect(StageConfig):
    """Answers of a model, filtered, with other data: a data set to fine-tune on."""

    makes: ClassVar[Artifact] = "dataset"
    kind: Literal["collect"]
    data: Data
    sampling: Drawing
    filter: Filters = Filters()
    give_up: GiveUp = GiveUp()
    judge: Judge | None = Field(default=None, description="a model that grades; none = rules only")
    refine: Writer | None = Field(
        default=None,
        description="a model that makes kept answers more readable (R1's cold start); none = as drawn",
    )
    summarise: Writer | None = Field(
        default=None,
        description="a model that writes a summary where there is only an <answer>; none = as drawn",
    )
    chain_of_thought: Writer | None = Field(
        default=None, description="a model that writes thoughts for general rows with thoughts = 'make'"
    )
    general: dict[str, General] = Field(
        default={}, description="a table for each further source, by its name"
    )
    categories: dict[str, str] = Field(
        default={},
        description="task -> its line in the table, several tasks in one; default: the task's name",
    )
    target: dict[str, PositiveInt] = Field(
        default={},
        description="category -> rows of it, at most, drawn by the seed (R1: math 395,285; code 211,129; "
        "STEM 10,124; logic 10,395; general 177,812)",
    )
    decontaminate: Decontaminate | None = Field(
        default=None, description="benchmarks to be kept out (R1: yes); none = nothing is looked up"
    )
    response: Literal["as_drawn", "think_summary"] = Field(
        default="as_drawn",
        description="as_drawn: answers word for word; think_summary: a think block, a blank line, then what "
        "stands behind the thoughts, without answer tags (R1's cold start)",
    )
    examples: NonNegativeInt = Field(
        default=5, description="answers shown in samples.jsonl for each reason for which they were dropped"
    )

    @field_validator("data")
    @classmethod
    def _asks(cls, value: Data) -> Data:
        if value.kind != "tasks":
            raise ValueError(f"kind = '{value.kind}': a collect stage asks questions, say kind = 'tasks'")
        return value

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        if self.model.config is not None:
            raise ValueError(
                "model.config: random weights answer nothing; give model.path or model.from_stage"
            )
        if self.tokenizer.train is not None or self.tokenizer.graft is not None:
            raise ValueError("tokenizer: the model that answers has its own; give tokenizer.path or nothing")
        tasks, named = self.data.tasks or {}, set(self.categories)
        if self.judge is not None:
            named |= set(self.judge.tasks or ())
        if unknown := sorted(named - set(tasks)):
            raise ValueError(f"no task '{unknown[0]}' in data.tasks; there are {', '.join(tasks)}")
        made = [name for name, source in self.general.items() if source.thoughts == "make"]
        if made and self.chain_of_thought is None:
            raise ValueError(
                f"general.{made[0]}.thoughts = 'make' needs a model: say chain_of_thought.path or "
                "chain_of_thought.from_stage"
            )
        if unknown := sorted(set(self.target) - self.lines):
            raise ValueError(
                f"target.{unknown[0]}: no such category; there are {', '.join(sorted(self.lines))}"
            )
        return self

    def category(self, task: str) -> str:
        """The line of a task's rows in the table."""
        return self.categories.get(task, task)

    @property
    def lines(self) -> set[str]:
        """All categories of the table."""
        general = {source.category for source in self.general.values()}
        return general | {self.category(task) for task in self.data.tasks or {}}
