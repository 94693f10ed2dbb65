"""The house: what is packaged, what the scripts and extras are called, that the checkers look everywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import metadata
from pathlib import Path

import pytest

import edgedet
from edgedet.cli import main as cli

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAPPED = ("export", "calib", "runtime")


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files git knows that are there, symlinks among them, relative to the root."""
    done = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        pytest.skip("needs a git checkout: the list of files comes from git")
    names = [Path(n) for n in done.stdout.split("\0") if n]
    return [n for n in names if (ROOT / n).exists() or (ROOT / n).is_symlink()]


@pytest.fixture(scope="module")
def wheel_files(tracked: list[Path], tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What a wheel built from the tracked files holds."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-q",
        ".",
    ]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = copy.glob("*.whl")
    with zipfile.ZipFile(wheel) as z:
        return {n for n in z.namelist() if ".dist-info/" not in n}


def test_the_wheel_holds_every_tracked_file_of_the_packages_and_nothing_else(
    tracked: list[Path], wheel_files: set[str]
) -> None:
    expected = set()
    for name in tracked:
        if (ROOT / name).is_symlink():
            continue
        if name.parts[0] == "edgedet":
            expected.add(name.as_posix())
        elif name.parts[0] in MAPPED:
            expected.add(f"edgedet/{name.as_posix()}")
    assert sorted(wheel_files) == sorted(expected)


def test_the_wheel_holds_the_mapped_packages_and_the_type_marker(wheel_files: set[str]) -> None:
    assert {f"edgedet/{p}/__init__.py" for p in MAPPED} < wheel_files
    assert "edgedet/py.typed" in wheel_files


@pytest.mark.parametrize("package", MAPPED)
def test_a_symlink_leads_to_each_mapped_package(package: str) -> None:
    link = ROOT / "edgedet" / package
    assert link.is_symlink()
    assert link.readlink() == Path("..") / package
    assert PROJECT["tool"]["setuptools"]["package-dir"][f"edgedet.{package}"] == package


def test_every_package_is_named() -> None:
    found = {
        str(p.parent.relative_to(ROOT)).replace("/", ".")
        for top in ("edgedet", *MAPPED)
        for p in (ROOT / top).rglob("__init__.py")
        if not any(part in MAPPED for part in p.relative_to(ROOT).parts[1:-1])
    }
    names = {f"edgedet.{n}" if n.split(".")[0] in MAPPED else n for n in found}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == names


def test_mypy_sees_a_type_error_behind_the_symlinks(tmp_path: Path) -> None:
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    for name in PROJECT["tool"]["mypy"]["files"]:
        if name != "edgedet":
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
    (tmp_path / "edgedet").mkdir()
    (tmp_path / "edgedet/__init__.py").touch()
    for package in MAPPED:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / "edgedet" / package).symlink_to(f"../{package}")
    (tmp_path / "runtime/planted.py").write_text('count: int = "three"\n')
    done = subprocess.run([sys.executable, "-m", "mypy"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "planted.py:1: error: Incompatible types in assignment" in done.stdout


def test_ruff_refuses_the_bare_names(tmp_path: Path) -> None:
    source = "".join(f"import {package}\n\nprint({package})\n" for package in MAPPED)
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--config",
        ROOT / "pyproject.toml",
        "--select",
        "TID251",
        "-",
    ]
    done = subprocess.run(command, input=source, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.count("TID251") == len(MAPPED), done.stdout + done.stderr


def test_scripts_and_verbs_are_in_step() -> None:
    scripts = PROJECT["project"]["scripts"]
    assert scripts.pop("edgedet") == "edgedet.cli.main:main"
    for script, target in scripts.items():
        verb = script.removeprefix("edgedet-")
        assert verb in cli.VERBS
        assert target == f"edgedet.cli.main:{cli.VERBS[verb].function}"
        assert callable(getattr(cli, cli.VERBS[verb].function))
    assert set(cli.VERBS) - {s.removeprefix("edgedet-") for s in scripts} == {"info", "doctor"}


def test_one_version() -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    assert metadata("edgedet")["Version"] == edgedet.__version__
    assert f"## [{edgedet.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_errors_name_extras_that_exist() -> None:
    extras = set(PROJECT["project"]["optional-dependencies"])
    files = [p for top in ("edgedet", *MAPPED) for p in (ROOT / top).rglob("*.py")]
    named = {m for p in files for m in re.findall(r'extra="(\w+)"|edgedet\[(\w+)\]', p.read_text())}
    flat = {name for pair in named for name in pair if name}
    assert flat
    assert flat <= extras


def test_the_base_install_has_no_torch_and_no_engine() -> None:
    base = " ".join(PROJECT["project"]["dependencies"])
    for name in ("torch", "openvino", "onnx", "tensorrt", "pycuda"):
        assert name not in base


@pytest.mark.parametrize("script", ["tools/demo", "tools/test", ".ci/run"])
def test_a_script_is_executable_and_parses(script: str) -> None:
    assert (ROOT / script).stat().st_mode & 0o111
    subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_continuous_integration_runs_what_a_person_runs() -> None:
    commands = [x for x in (ROOT / ".ci/run").read_text().splitlines() if x and not x.startswith("#")]
    assert commands == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "exec tools/test"]


def test_links_between_the_documents_lead_somewhere() -> None:
    documents = [ROOT / n for n in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    documents += (ROOT / "docs").rglob("*.md")
    for document in documents:
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
            if not target.startswith(("http:", "https:")):
                assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_files_stay_readable() -> None:
    files = [p for top in ("edgedet", *MAPPED) for p in (ROOT / top).rglob("*.py")]
    long = {str(p.relative_to(ROOT)): n for p in files if (n := len(p.read_text().splitlines())) > 400}
    assert not long
