"""TensorBoard and Weights & Biases, each by config, each imported only then."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1mega.config.sections import Log as LogSettings
from r1mega.files import disk_errors, write_text
from r1mega.logs.view import is_number
from r1mega.types import UserError


class TensorBoardSink:
    """Event files in `folder`; on resume TensorBoard forgets what was written after `resume_step`."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise missing("tensorboard", "log.tensorboard = true", "log.tensorboard=false") from error
        with disk_errors(folder):
            self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1 if resume_step else None)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        for name, value in metrics.items():
            if is_number(value):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """One W&B run a stage. Its id stays in the stage's folder: a resumed stage goes on in the same run."""

    def __init__(self, folder: Path, settings: LogSettings, title: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise missing("wandb", "log.wandb_project", "no log.wandb_project") from error
        id_file = folder / "wandb_id"
        if not id_file.is_file():
            write_text(id_file, uuid.uuid4().hex[:12])
        try:
            self._run = wandb.init(
                project=settings.wandb_project,
                entity=settings.wandb_entity,
                mode=settings.wandb_mode,
                name=title,
                id=id_file.read_text(encoding="utf-8"),
                resume="allow" if settings.wandb_mode == "online" else None,
                dir=str(folder),
                config=dict(config),
                settings=wandb.Settings(console="off", silent=True),  # its banners would break the live view
            )
        except wandb.Error as error:
            reason = str(error).rstrip(".")
            raise UserError(
                f"Weights & Biases refuses: {reason}. Run `wandb login`, or say log.wandb_mode=offline"
            ) from error

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


def missing(package: str, wanted_by: str, instead: str) -> UserError:
    return UserError(f"{wanted_by} needs the package {package}: pip install {package}, or say {instead}")
