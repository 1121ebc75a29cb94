"""The configs of the real thing have every published number, and say of each number where it comes from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from r1mega.config import load
from r1mega.config.graph import inputs
from r1mega.stages.refuse import refuse

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/r1_facts.md"
REAL = [path for room in ("r1_zero", "r1", "distill") for path in sorted((ROOT / "configs" / room).iterdir())]
TARGETS = sorted((ROOT / "configs/distill").glob("*.toml"))
SOURCES = {"N", "V1", "V2"}


def published() -> list[tuple[str, str, str, Any, str]]:
    """(config, stage, key, value, source) of the page's block of TOML."""
    block = re.search(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block
    return [
        (config, stage, key, fact[0], fact[1])
        for config, stages in tomllib.loads(block[1]).items()
        for stage, facts in stages.items()
        for key, fact in facts.items()
    ]


def value_at(values: Any, key: str) -> Any:
    """A dotted key's value in nested tables; "none" for none."""
    for part in key.split("."):
        values = values[part]
    return "none" if values is None else values


def test_every_published_number_is_in_its_config() -> None:
    loaded = {name: load(ROOT / "configs" / f"{name}.toml") for name in {fact[0] for fact in published()}}
    wrong = []
    for config, stage, key, value, source in published():
        found = value_at(loaded[config].stages[stage].model_dump(mode="json"), key)
        same = found == pytest.approx(value, rel=1e-12) if isinstance(value, float) else found == value
        if not same or source not in SOURCES:
            wrong.append(f"{config}: stages.{stage}.{key} is {found!r}, published is {value!r} ({source})")
    assert wrong == []
    assert len(published()) > 100


def test_what_the_paper_counts_in_optimizer_steps() -> None:
    """By hand: our train.steps are rollouts of 8,192 answers in mini-batches of 512."""
    run = load(ROOT / "configs/r1/r1_v3_671b.toml")
    zero: Any = run.stages["r1_zero"]
    updates = zero.algorithm.updates
    answers = zero.rollout.prompts * zero.rollout.group
    assert (answers, updates, answers // updates) == (8192, 16, 32 * 16)
    assert zero.train.steps * updates == 10_400
    [(first, _)] = zero.rollout.changes.items()
    assert (int(first) - 2) * updates < 8200 <= (int(first) - 1) * updates, "the first drawn after step 8,200"
    stages: dict[str, Any] = dict(run.stages)
    rules, last = (stages[name].train.steps * updates for name in ("rl_general_rules", "rl_general"))
    assert last == 400 and abs(rules + last - 1700) < updates


def test_the_graph_is_the_papers() -> None:
    """Both fine-tunings start from the base; each stage takes what the paper says."""
    stages = load(ROOT / "configs/r1/r1_v3_671b.toml").stages
    assert {name: inputs(stage) for name, stage in stages.items()} == {
        "r1_zero": [],
        "cold_start_data": ["r1_zero"],
        "cold_start": ["cold_start_data"],
        "rl_reasoning": ["cold_start"],
        "rejection_data": ["rl_reasoning"],
        "rejection_sft": ["rejection_data"],
        "reward_models": ["rejection_sft"],
        "rl_general_rules": ["rejection_sft"],
        "rl_general": ["rl_general_rules", "reward_models"],
    }
    bases = {str(stages[name].model.path) for name in ("r1_zero", "cold_start", "rejection_sft")}
    assert bases == {"models/DeepSeek-V3-Base"}


def test_the_rates_of_distillation_are_those_of_the_facts(shared: Path) -> None:
    """Read from the facts' own line, by the model's name."""
    facts = shared.parent / "R1_FACTS.md"
    if not facts.is_file():
        pytest.skip("the facts are absent: there is no R1_FACTS.md beside the data")
    [line] = [line for line in facts.read_text("utf-8").splitlines() if line.startswith("| distillation |")]
    rates = {model: float(rate) for model, rate in re.findall(r"([QL][\w.-]+) (\d+e-\d)", line)}
    made: list[Any] = [stage for path in TARGETS for stage in load(path).stages.values()]
    ours = {str(stage.model.path).removeprefix("models/"): stage.train.lr for stage in made}
    assert len(rates) == 6 and rates.items() <= ours.items()
    assert ours.keys() - rates.keys() == {"Qwen2.5-1.5B", "Qwen2.5-7B"}


@pytest.mark.parametrize(
    "path", [path for path in REAL if path.suffix == ".toml"], ids=lambda path: path.stem
)
def test_nothing_in_them_is_refused(path: Path) -> None:
    """Templates, rewards, languages and benchmarks exist: what a run looks at before its first stage."""
    refuse(load(path))


@pytest.mark.parametrize("path", TARGETS, ids=lambda path: path.stem)
def test_distilled_models_are_made_alike(path: Path) -> None:
    [(name, stage)] = load(path).stages.items()
    made: Any = stage
    assert name.startswith("distill-") and made.kind == "sft"
    assert made.tokenizer.graft == "r1" and made.data.template == "chat"
    assert made.model.changes["tie_word_embeddings"] is False
    longer = made.model.changes.get("max_position_embeddings")
    assert (longer is not None) == ("Math" in str(made.model.path)), "Qwen2.5-Math declares 4,096 positions"
    assert longer is None or longer > made.data.max_length


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_every_number_says_where_it_comes_from(path: Path) -> None:
    """Behind the value, or behind the head of its table."""
    head, silent = "", []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            head = line
        elif re.match(r"[\w.\"-]+ = \[?\d", line) and "#" not in line and "#" not in head:
            silent.append(line)
    assert silent == []
