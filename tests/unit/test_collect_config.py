"""What a collect stage may be told."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from r1mega.config.collect import Collect


def made(**changes: Any) -> Collect:
    tasks = {"sums": {"kind": "sums"}, "count": {"kind": "countdown"}}
    values = {
        "kind": "collect",
        "model": {"path": "m"},
        "data": {"kind": "tasks", "tasks": tasks},
        "sampling": {"prompts": 4},
    }
    return Collect.model_validate(values | changes)


def test_the_defaults_are_the_papers_where_it_says() -> None:
    config = made(categories={"count": "math"}, general={"own": {"path": "g.jsonl", "category": "writing"}})
    assert config.makes == "dataset" and config.sampling.temperature == 1.0
    assert config.lines == {"sums", "math", "writing"} and config.category("sums") == "sums"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"data": {"kind": "pairs", "path": "a.jsonl"}}, "say kind = 'tasks'"),
        ({"model": {"config": {"vocab_size": 8}}}, "random weights answer nothing"),
        ({"judge": {}}, "needs exactly one of path, from_stage; given: none"),
        ({"refine": {"path": "a", "from_stage": "b"}}, "given: path and from_stage"),
        (
            {"judge": {"path": "a", "tasks": ["essay"]}},
            "no task 'essay' in data.tasks; there are sums",
        ),
        ({"categories": {"essay": "x"}}, "no task 'essay'"),
        ({"target": {"maths": 5}}, "target.maths: no such category; there are count, sums"),
        ({"general": {"own": {"category": "x"}}}, "needs path, a file of rows"),
        ({"general": {"own": {"kind": "toy", "category": "x"}}}, "say count"),
        (
            {"general": {"own": {"path": "g", "category": "x", "thoughts": "make"}}},
            "say chain_of_thought.path",
        ),
        ({"sampling": {"prompts": 4, "temperature": 3.0}}, "less than or equal to 2"),
        ({"filter": {"langauge": "en"}}, "Extra inputs are not permitted"),
    ],
)
def test_mistakes_are_told(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        made(**changes)
