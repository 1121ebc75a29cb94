"""What is asked: tasks that give questions with gold answers, generated without end or read from files."""

from r1mega.data.tasks.base import Question, Task
from r1mega.data.tasks.countdown import Countdown, toy_countdown
from r1mega.data.tasks.files import FORMATS, FileTask
from r1mega.data.tasks.logic import Logic, toy_logic
from r1mega.data.tasks.sums import ToySums
from r1mega.data.tasks.toy_code import ToyCode
from r1mega.data.tasks.toy_general import ToyGeneral

__all__ = [
    "FORMATS", "Countdown", "FileTask", "Logic", "Question", "Task", "ToyCode", "ToyGeneral", "ToySums",
    "toy_countdown", "toy_logic",
]  # fmt: skip
