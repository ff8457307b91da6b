"""The front door is light, and the directions of imports are really checked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sparsight

ROOT = Path(__file__).resolve().parents[1]
CHECKER = Path(sys.executable).with_name("lint-imports")


def _python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    return done.stdout.strip()


def test_importing_sparsight_imports_no_torch():
    assert _python("import sparsight, sys; print('torch' in sys.modules)") == "False"


def test_loading_a_network_does_not_import_the_libraries_it_does_not_need():
    heavy = "{'timm', 'transformers', 'captum', 'zennit', 'matplotlib', 'sklearn', 'skimage'}"
    code = f"import sparsight, sys; sparsight.load('embedded'); print({heavy} & set(sys.modules))"
    assert _python(code) == "set()"


def test_every_public_name_can_be_imported():
    for name in sparsight.__all__:
        assert getattr(sparsight, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sparsight.nonsense


def _check(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    return subprocess.run(
        [CHECKER, "--no-cache", "--config", str(folder / "pyproject.toml")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    if not CHECKER.is_file():
        pytest.skip("import-linter is not installed in this environment")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=ignored)
    return tmp_path


def test_the_rooms_keep_their_contracts(copied):
    done = _check(copied)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("networks/labels.py", "from sparsight.traces import trace"),
        ("networks/labels.py", "from sparsight.storage import atomic_folder"),
        ("datasets/__init__.py", "import sparsight.attribution"),
        ("traces/presets.py", "import sparsight.reports"),
        ("reports/text.py", "from sparsight.benchmarks import measure_speed"),
        ("benchmarks/speed.py", "import sparsight.casefile"),
        ("traces/solvers/solution.py", "from sparsight.networks import weight_matrices"),
        ("errors.py", "import sparsight.cli"),
    ],
)
def test_a_wrong_import_is_found(copied, module, line):
    path = copied / "src" / "sparsight" / module
    path.write_text(path.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    done = _check(copied)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout


def test_a_room_without_a_place_is_found(copied):
    (copied / "src" / "sparsight" / "attic.py").write_text('"""New."""\n', encoding="utf-8")
    done = _check(copied)
    assert done.returncode == 1
    assert "attic" in done.stdout
