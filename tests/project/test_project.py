"""The project as a newcomer meets it: documents that are true, arrows that point one way, a demo
that runs."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge.config import DEMO_FOLDER
from edge.contract.bundle import read_bundle
from tests import HANGS_S

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf8")
ARCHITECTURE = (PROJECT / "ARCHITECTURE.md").read_text(encoding="utf8")
DOCUMENTS = sorted(p for folder in (PROJECT, PROJECT / "docs") for p in folder.glob("*.md"))
# tell of what was typed then
HISTORY = ("CHANGELOG.md", "log.md", "verification.md", "ablation.md")
PACKAGES = ("edge", "trainer", "export")


def sources() -> list[Path]:
    return [p for package in PACKAGES for p in sorted((PROJECT / package).rglob("*.py"))]


def test_arrows_point_one_way() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_the_architectures_tree_is_the_tree() -> None:
    tree = re.search(r"## The tree\n.*?```\n(.*?)```", ARCHITECTURE, re.DOTALL)
    assert tree
    folders: list[str] = []
    listed = set()
    for line in tree.group(1).splitlines():
        name, *phrase = line.split()
        assert name.endswith("/"), f"{name}: a folder a line"
        assert len(phrase) > 2, f"{name}: what is it for?"
        folders[(len(line) - len(line.lstrip())) // 2 :] = [name]
        listed.add("".join(folders).rstrip("/"))
    packages = {p.parent.relative_to(PROJECT).as_posix() for p in sources()}
    assert packages - listed == set()
    assert [name for name in sorted(listed) if not (PROJECT / name).is_dir()] == []


def test_where_files_were_leads_to_where_they_are() -> None:
    table = ARCHITECTURE[ARCHITECTURE.index("## Where files were") :]
    rows = re.findall(r"^\| (`.+`) \| `(\S+)` \|$", table, re.MULTILINE)
    pairs = [(old, new) for olds, new in rows for old in re.findall(r"`([^`]+)`", olds)]
    pairs = [pair for pair in pairs if "NAME" not in pair[1]]
    assert len(pairs) > 100
    for old, new in pairs:
        now = PROJECT / (new + old.rpartition("/")[2] if new.endswith("/") else new)
        assert now.is_file(), f"{old}: {now}"
        assert not (PROJECT / old).is_file(), old


@pytest.mark.parametrize("package", PACKAGES)
def test_commands_in_the_documents_exist(package: str) -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", package, "--help"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    start = (
        rf"(?:python -m {package}{'|(?<![./-])(?<!-u )birdstation' if package == 'edge' else ''})"
    )
    code = "\n".join(
        part for path in DOCUMENTS if path.name not in HISTORY for part in code_of(path)
    )
    commands = set(re.findall(rf"{start} ([a-z][a-z-]*)", code))
    assert commands, "the documents show how to use it"
    for command in sorted(commands):
        assert re.search(rf"│ {command} ", help_text), f"{package} {command}: no such command"


def code_of(document: Path) -> list[str]:
    """What is typed, or could be: fenced blocks and what stands between backticks."""
    text = document.read_text(encoding="utf8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return blocks + re.findall(
        r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    )


def test_make_targets_in_the_documents_exist() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    for path in DOCUMENTS:
        code = "\n".join(code_of(path)) if path.name not in HISTORY else ""
        for target in re.findall(r"^(?:sudo )?make ([a-z][a-z-]+)\b", code, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{path.name}: make {target}"


def test_links_in_the_documents_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf8")):
            assert "://" in link or (path.parent / link).exists(), f"{path.name}: {link}"


def test_the_model_card_is_of_the_bundle_that_ships() -> None:
    bundle = read_bundle(DEMO_FOLDER / "bundle")
    card = (PROJECT / "docs" / "model-card.md").read_text(encoding="utf8")
    assert bundle.id[:16] in card
    listed = re.findall(r"^\| `(\w+)` \| (.+) \| \*(.+)\* \|$", card, re.MULTILINE)
    assert listed == [(s.code, s.common_name, s.scientific_name) for s in bundle.taxonomy]


def test_one_version_everywhere() -> None:
    (version,) = re.findall(
        r'^version = "(.+)"', (PROJECT / "pyproject.toml").read_text(), re.MULTILINE
    )
    changelog, citation = (
        (PROJECT / name).read_text(encoding="utf8") for name in ("CHANGELOG.md", "CITATION.cff")
    )
    newest = re.findall(r"^## (\S+) — (\S+)", changelog, re.MULTILINE)[0]
    cited = re.findall(r"^(?:version|date-released): (\S+)", citation, re.MULTILINE)
    assert list(newest) == cited == [version, cited[1]]


def test_every_file_says_what_it_is_for() -> None:
    for path in sources():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf8"))), path


def test_messages_say_expected_and_found() -> None:
    """Not "wanted", over which a native reader stumbles; docstrings and names of variables may."""
    scopes = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf8"))
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, scopes) and is_told(node)
        }
        texts = [
            n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)
        ]
        told = [
            n.value for n in texts if id(n) not in docstrings and re.search(r"\bwanted\b", n.value)
        ]
        assert not told, path
    for path in (*DOCUMENTS, PROJECT / "station.yaml", PROJECT / "Makefile"):
        assert not re.search(r"\bwanted\b", path.read_text(encoding="utf8")), path


def is_told(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> bool:
    """Whether it begins with a docstring."""
    return (
        bool(node.body)
        and isinstance(node.body[0], ast.Expr)
        and isinstance(node.body[0].value, ast.Constant)
    )


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
    """ONNX Runtime keeps an id of the device and a queue of events in the home folder unless it is
    told not to."""
    program = (
        "from edge.engines.onnx import OnnxEngine; from edge.config import DEMO_FOLDER; from "
        "pathlib import Path\n"
    )
    program += "OnnxEngine(sorted((DEMO_FOLDER / 'bundle' / 'members').glob('*.onnx')))\n"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "ORT_"))} | {
        "HOME": str(tmp_path)
    }
    subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, env=clean, check=True, timeout=HANGS_S
    )
    assert list(tmp_path.rglob("*")) == []


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make demo` leaves."""
    out = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "edge", "demo", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=HANGS_S,
    )
    assert done.returncode == 0, done.stderr
    assert "eight invented birds" in done.stdout
    return out


@pytest.mark.slow
def test_the_demo_runs_as_it_ships(demo: Path) -> None:
    assert (demo / "station.db").is_file()
    assert (demo / "station.yaml").is_file()
    summary = json.loads((demo / "summary.json").read_text())
    assert summary["mqtt_received"] == summary["detections"] > 20
    assert summary["f1"] > summary["f1_all_nocall"] + 0.1
    assert {"audio_s", "x_real_time", "seconds_total"} <= set(summary)
    shipped = sum(
        p.stat().st_size
        for p in (PROJECT / "edge" / "demo").rglob("*")
        if p.suffix not in (".py", ".pyc")
    )
    assert shipped <= 12_000_000


@pytest.mark.slow
def test_the_picture_is_drawn_from_the_demo(demo: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the station's tests alone have none")
    folder = PROJECT / "docs" / "pictures"
    subprocess.run(
        [sys.executable, folder / "draw.py", demo, tmp_path / "demo.png"],
        check=True,
        timeout=HANGS_S,
    )
    drawn = tmp_path / "demo.png"
    shown = folder / "demo.png"
    for picture in (drawn, shown):
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 300_000
    assert shown.name in README
