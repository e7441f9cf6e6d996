"""The repository as a whole: sizes, docstrings, import direction, wording, links, and pages that follow the code."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 400
TEXT = {
    ".cfg",
    ".conf",
    ".css",
    ".html",
    ".ini",
    ".js",
    ".json",
    ".md",
    ".py",
    ".sh",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
}

# Words that would tie the repository to the machine it was written on.
FORBIDDEN = re.compile(
    r"(?<![\w}])/(?:work|farm|root|home)/\w|/tmp/\w+/|(?:pypi|files)\.(?:python)?\S*\.\w+/simple|--(?:extra-)?index-url[ =]http",
)


@cache
def tracked(*suffixes: str) -> list[Path]:
    """Files that belong to the repository, those not yet committed included."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return sorted(path for path in paths if path.suffix in suffixes and path.is_file())


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_python_files_are_short() -> None:
    sizes = {relative(path): len(path.read_text().splitlines()) for path in tracked(".py")}
    assert sizes
    assert {name: lines for name, lines in sizes.items() if lines > MAX_LINES} == {}


def test_every_module_says_what_it_is_for() -> None:
    silent = []
    for path in tracked(".py"):
        if path.name.startswith("test_"):
            continue  # its name says which module it tests
        document = ast.get_docstring(ast.parse(path.read_text()))
        if not document or len(document.splitlines()[0]) < 10:
            silent.append(relative(path))
    assert silent == []


def test_imports_go_in_one_direction() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_no_machine_paths_and_no_registries() -> None:
    found = []
    for path in [*tracked(*TEXT, "", ".lock", ".Dockerfile"), ROOT / "Makefile"]:
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if FORBIDDEN.search(line):
                found.append(f"{relative(path)}:{number}: {line.strip()[:100]}")
    assert found == []


def anchor(heading: str) -> str:
    """The fragment that a heading gets on the pages of the usual hosts."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


@pytest.mark.parametrize("path", tracked(".md"), ids=relative)
def test_links_resolve(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        page = (path.parent / name).resolve() if name else path
        if not page.exists():
            broken.append(target)
        elif fragment and page.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
            if fragment not in {anchor(heading) for heading in headings}:
                broken.append(target)
    assert broken == []


def test_the_settings_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("write_settings", ROOT / "docs" / "write_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page(), "run: python docs/write_settings.py"
    assert "| |" not in module.page().replace("| --- |", ""), "a setting has no description"
