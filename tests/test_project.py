"""The project as a newcomer meets it: documents that are true, arrows that point one way, a demo that runs."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import HANGS_S

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf8")
PACKAGES = ("edge", "trainer", "export")


def sources() -> list[Path]:
    return [p for package in PACKAGES for p in sorted((PROJECT / package).rglob("*.py"))]


def test_arrows_point_one_way() -> None:
    done = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_readmes_tree_is_the_tree() -> None:
    tree = re.search(r"## The tree\n+```\n(.*?)```", README, re.DOTALL)
    assert tree
    folders: list[str] = []
    listed = set()
    for line in tree.group(1).splitlines():
        name = line.split()[0] if line.strip() else ""
        depth = (len(line) - len(line.lstrip())) // 2
        if name.endswith("/"):
            folders[depth:] = [name]
        elif name.endswith(".py"):
            listed.add("".join(folders[:depth]) + name)
        if name:
            assert len(line.split()) > 2, f"{name}: what is it for?"
    files = {p.relative_to(PROJECT).as_posix() for p in sources() if p.name != "__init__.py"}
    assert listed == files


@pytest.mark.parametrize("package", PACKAGES)
def test_commands_in_the_documents_exist(package: str) -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", package, "--help"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    documents = [README, *(p.read_text(encoding="utf8") for p in (PROJECT / "docs").glob("*.md"))]
    commands = {c for text in documents for c in re.findall(rf"python -m {package} ([a-z][a-z-]*)", text)}
    assert commands, "the README shows how to use it"
    for command in commands:
        assert re.search(rf"│ {command} ", help_text), f"python -m {package} {command}: no such command"


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z][a-z-]+)\b", README)) - {"the"}:
        if re.search(rf"`make {target}|^make {target}", README, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_file_says_what_it_is_for() -> None:
    for path in sources():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf8"))), path


def test_no_pickle_is_loaded() -> None:
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "joblib", "cloudpickle", "dill"} & set(names), path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                call = ast.unparse(node.func)
                assert call not in ("torch.load", "torch.save", "np.save_pickle"), path
                if call == "np.load":
                    assert "allow_pickle=False" in ast.unparse(node), path


def test_nothing_is_reported_to_anyone(tmp_path: Path) -> None:
    """ONNX Runtime keeps an id of the device and a queue of events in the home folder unless it is told not to."""
    program = (
        "from edge.engines.onnx import OnnxEngine; from edge.config import DEMO_FOLDER; from pathlib import Path\n"
    )
    program += "OnnxEngine(sorted((DEMO_FOLDER / 'bundle' / 'members').glob('*.onnx')))\n"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "ORT_"))} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT, env=clean, check=True, timeout=HANGS_S)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.slow
def test_the_demo_runs_as_it_ships(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edge", "demo", "--out", str(tmp_path)], capture_output=True, text=True, timeout=HANGS_S
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "station.db").is_file()
    assert (tmp_path / "station.yaml").is_file()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["mqtt_received"] == summary["detections"] > 20
    assert summary["f1"] > summary["f1_all_nocall"] + 0.1
    assert {"audio_s", "x_real_time", "seconds_total"} <= set(summary)
    shipped = sum(p.stat().st_size for p in (PROJECT / "edge" / "demo").rglob("*") if p.suffix not in (".py", ".pyc"))
    assert shipped <= 12_000_000
