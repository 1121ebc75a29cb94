"""The rules by which answers are right or wrong, by name. A new one is a row here."""

from __future__ import annotations

from collections.abc import Mapping

from r1mega.rewards.answers import Grader
from r1mega.rewards.choice import CHOICE
from r1mega.rewards.code import CODE
from r1mega.rewards.countdown import COUNTDOWN
from r1mega.rewards.gym import GYM
from r1mega.rewards.ifeval import IFEVAL
from r1mega.rewards.integer import INTEGER
from r1mega.rewards.logic import LOGIC
from r1mega.rewards.math import MATH
from r1mega.rewards.toy_general import TOY_GENERAL

GRADERS: Mapping[str, Grader] = {
    "integer": INTEGER,
    "math": MATH,
    "code": CODE,
    "choice": CHOICE,
    "countdown": COUNTDOWN,
    "logic": LOGIC,
    "ifeval": IFEVAL,
    "gym": GYM,
    "toy_general": TOY_GENERAL,
}
