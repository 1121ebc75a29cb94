"""The stage `preferences`: pairs of a model's answers, judged several times in either order.

room/shards/00000.json   the judged pairs of shard 0; a killed run goes on with the first that is not there
room/dataset/rows.jsonl  id, prompt, chosen, rejected, score: what a reward model learns from
room/dataset/report.json what became of the pairs
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from r1mega.config.preferences import Comparing, Preferences
from r1mega.data.curate.shards import write_rows
from r1mega.data.formats.rows import read_rows
from r1mega.data.preferences.pairs import chosen_first, matched, mean_verdict, orders
from r1mega.data.prepare import ROWS
from r1mega.data.prompts_text import COMPARED, prompt_text
from r1mega.data.text import string
from r1mega.evaluation.model import Asker, stops
from r1mega.files import read_json, write_json
from r1mega.logs import say
from r1mega.parallel import Mesh, on_leader
from r1mega.rewards.model import summary_of
from r1mega.rollout.options import EngineOptions
from r1mega.rollout.vllm_engine import VLLMGenerator
from r1mega.stages.base import Context, Metrics
from r1mega.stages.collecting.asking import Model
from r1mega.stages.collecting.passes import Opened
from r1mega.stages.interrupt import StopRequest
from r1mega.types import Interrupted, Prompt, Sampling, UserError


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt; id: names them for good."""

    id: str
    prompt: str
    first: str
    second: str


def run(ctx: Context) -> Metrics:
    """Judge all pairs, and write those that are clear; the stage's metrics."""
    config = ctx.config
    assert isinstance(config, Preferences)
    section = config.answers
    file = ctx.inputs[section.from_stage] / ROWS if section.from_stage is not None else section.path
    assert file is not None  # the config has seen to it
    model = Model.of(config.model.path, config.model.from_stage, ctx.inputs, config.tokenizer.path)
    judge = Judge(config.compare, model, ctx.run.seed)
    pairs, dropped = on_leader(lambda: read_pairs(file, section.shown, section.pairs_per_prompt))
    if not pairs:
        raise UserError(
            f"{file}: no prompt has two different answers ({_said(dropped)}); draw more of them, as with "
            "sampling.samples and filter.correct=false of a stage of kind collect"
        )
    with Mesh(ctx.layout) as mesh, StopRequest() as stop:
        _judge_all(ctx, judge, pairs, mesh, stop)
    return on_leader(lambda: _conclude(ctx, config, pairs, dropped, model))


def read_pairs(file: Path, shown: str, most: int) -> tuple[list[Pair], Counter[str]]:
    """At most so many pairs of each prompt's answers, and how many answers are in none, by reason."""
    answers: dict[str, list[str]] = {}
    dropped: Counter[str] = Counter()
    for where, row in read_rows(file):
        prompt, response = string(row, "prompt", where), string(row, "response", where)
        text = summary_of(response) if shown == "summary" else response.strip()
        its = answers.setdefault(prompt, [])
        if not text:
            dropped["no_summary"] += 1
        elif text in its:
            dropped["same_answer"] += 1
        else:
            its.append(text)
    pairs = []
    for number, (prompt, its) in enumerate(answers.items()):
        count = min(most, len(its) // 2)
        dropped["unpaired"] += len(its) - 2 * count
        pairs += [Pair(f"{number}/{i}", prompt, its[2 * i], its[2 * i + 1]) for i in range(count)]
    return pairs, +dropped


class Judge:
    """Asks a language model which of two answers is better.

    Raises UserError for a prompt without its places, and a model that has no room or no chat template.
    """

    def __init__(self, section: Comparing, model: Model, seed: int) -> None:
        self.section, self._model = section, model
        self._text = prompt_text("compare", section.prompt, COMPARED)
        self._asker: Asker = model.asker(section.template)
        self.context = min(section.context or model.context, model.context)
        self._room = self.context - section.max_tokens
        if self._room <= 0:
            raise UserError(
                f"compare.max_tokens {section.max_tokens}: {model.name} holds {self.context} tokens, which "
                "leaves no room to read anything; lower it"
            )
        self._sampling = Sampling(
            section.max_tokens,
            temperature=section.temperature,
            top_p=section.top_p,
            seed=seed,
            stops=stops(model.folder, model.tokenizer),
        )

    def engine(self, dtype: str) -> VLLMGenerator:
        """All ranks make it together."""
        options = EngineOptions(
            max_model_len=self.context,
            max_num_seqs=self.section.max_sequences,
            kv_cache_gb=self.section.kv_cache_gb,
            dtype="float32" if dtype == "float32" else "bfloat16",
            tensor_parallel=self.section.tensor_parallel,
        )
        return VLLMGenerator(self._model.folder, self._model.tokenizer, options)

    def verdicts(self, engine: Any, pairs: Sequence[Pair]) -> list[float | None]:
        """The mean verdict on each pair, above 0 where the first answer is better.

        None where it could not be read, or where the pair does not fit the context: a counted outcome.
        """
        votes = self.section.votes
        asked = [
            [self._prompt(pair, vote, swap) for vote, swap in enumerate(orders(pair.id, votes))]
            for pair in pairs
        ]
        fits = [max(len(prompt.token_ids) for prompt in its) <= self._room for its in asked]
        flat = [prompt for its, fit in zip(asked, fits, strict=True) if fit for prompt in its]
        drawn = iter(engine.generate(flat, n=1, sampling=self._sampling) if flat else ())
        return [
            mean_verdict([next(drawn)[0].text for _ in range(votes)], orders(pair.id, votes)) if fit else None
            for pair, fit in zip(pairs, fits, strict=True)
        ]

    def _prompt(self, pair: Pair, vote: int, swap: bool) -> Prompt:
        a, b = (pair.second, pair.first) if swap else (pair.first, pair.second)
        values = dict(zip(COMPARED, (pair.prompt, a, b), strict=True))
        # In one pass: an answer that holds {answer_b} is left as it is.
        text = re.sub("|".join(map(re.escape, COMPARED)), lambda match: values[match[0]], self._text)
        framed = self._asker.fill(text)
        bos = self._asker.tokenizer.bos_id if self._asker.with_bos else None
        ids = (*(() if bos is None else (bos,)), *self._asker.tokenizer.encode(framed))
        return Prompt(f"compare/{pair.id}/{vote}", "compare", framed, ids, "")


def _judge_all(ctx: Context, judge: Judge, pairs: Sequence[Pair], mesh: Mesh, stop: StopRequest) -> None:
    """Every shard that is not there yet, all ranks together."""
    shards = _shards(ctx, len(pairs), judge.section.shard)
    with Opened(lambda: judge.engine(ctx.config.model.dtype), mesh.at.rank) as opened:
        for number, (file, places) in enumerate(shards):
            if on_leader(file.exists):
                continue
            mine = opened.mine(len(places))
            verdicts = judge.verdicts(opened.engine, [pairs[places[i]] for i in mine])
            told = dict(zip(mine, verdicts, strict=True)) if opened.speaks else {}
            found = {i: value for theirs in mesh.gather(told) for i, value in theirs.items()}
            on_leader(partial(write_json, file, [found[i] for i in range(len(places))]))
            say(f"{ctx.name}: {number + 1}/{len(shards)} shards of {len(places)} pairs are judged")
            if mesh.any_rank(stop.asked):
                raise Interrupted(
                    f"interrupted after {number + 1} of {len(shards)} shards, which are saved; run the same "
                    "command again to go on from there"
                )


def _shards(ctx: Context, count: int, size: int) -> list[tuple[Path, range]]:
    """Each shard's file and the pairs in it."""
    starts = range(0, count, size)
    return [
        (ctx.room / "shards" / f"{number:05d}.json", range(start, min(count, start + size)))
        for number, start in enumerate(starts)
    ]


def _conclude(
    ctx: Context, config: Preferences, pairs: Sequence[Pair], dropped: Mapping[str, int], model: Model
) -> Metrics:
    """Keep what is clear, match the lengths, write; raises UserError where no pair is left."""
    counts = Counter(dropped)
    clear: list[dict[str, Any]] = []
    for pair, score in zip(pairs, _scores(ctx, config, len(pairs)), strict=True):
        first = chosen_first(score, config.compare.margin) if score is not None else None
        if first is None:
            counts["unreadable" if score is None else "too_close"] += 1
            continue
        chosen, rejected = (pair.first, pair.second) if first else (pair.second, pair.first)
        clear.append(
            {
                "id": pair.id,
                "prompt": pair.prompt,
                "chosen": chosen,
                "rejected": rejected,
                "score": abs(score or 0),
            }
        )
    lengths = [(model.tokens(row["chosen"]), model.tokens(row["rejected"])) for row in clear]
    kept = matched(lengths) if config.compare.match_lengths else list(range(len(clear)))
    counts["unmatched_length"] += len(clear) - len(kept)
    if not kept:
        raise UserError(
            f"{ctx.name}: of {len(pairs)} pairs none is left ({_said(counts)}); use a better judge, more "
            "answers, or a lower compare.margin"
        )
    write_rows(ctx.dataset / ROWS, (json.dumps(clear[i], ensure_ascii=False).encode() + b"\n" for i in kept))
    means = {
        name: round(sum(lengths[i][side] for i in kept) / len(kept), 2)
        for side, name in enumerate(("chosen_tokens", "rejected_tokens"))
    }
    report = {"pairs": len(pairs), "kept": len(kept), **means, "dropped": dict(+counts), "judge": model.name}
    write_json(ctx.dataset / "report.json", report | {"compare": config.compare.model_dump(mode="json")})
    say(f"{ctx.name}: {len(kept):,} of {len(pairs):,} pairs are kept; dropped: {_said(counts)}")
    return {
        "pairs": len(pairs),
        "kept": len(kept),
        **means,
        **{f"dropped_{k}": v for k, v in (+counts).items()},
    }


def _scores(ctx: Context, config: Preferences, count: int) -> Iterator[float | None]:
    for file, places in _shards(ctx, count, config.compare.shard):
        values = read_json(file)
        if not isinstance(values, list) or len(values) != len(places):
            raise UserError(f"{file} is damaged: delete it to judge its pairs again")
        yield from values


def _said(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items() if count) or "nothing"
