"""README and docs: links lead somewhere, commands are understood, Python and the tutorial run."""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from narrow_run import make_run
from PIL import Image
from volume_files import bscans, write_vol

from oct_jax.commands import settings as configs
from oct_jax.commands.cli import as_settings
from oct_jax.commands.parsing import parse
from oct_jax.data.phantom import phantom_scans

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "experiments/README.md")
    if "build" not in path.parts
)
NOTEBOOK = ROOT / "docs/tutorial.ipynb"
RECIPES = ROOT / "docs/how-to/library.md"
CONFIGS = {
    ("train",): configs.TrainConfig,
    ("demo",): configs.DemoConfig,
    ("evaluate",): configs.EvaluateConfig,
    ("evaluate", "recalibrate"): configs.RecalibrateConfig,
    ("evaluate", "adapt"): configs.AdaptConfig,
    ("evaluate", "compare"): configs.CompareConfig,
    ("benchmark",): configs.BenchmarkConfig,
    ("evaluate", "monitor"): configs.MonitorConfig,
    ("evaluate", "report"): configs.ReportConfig,
    ("explain",): configs.ExplainConfig,
    ("explain", "report"): configs.ExplainReportConfig,
    ("export",): configs.ExportConfig,
    ("export", "viewer"): configs.ViewerConfig,
    ("data", "audit"): configs.AuditConfig,
    ("data", "prepare"): configs.PrepareConfig,
}
# What the tutorial's cells say, and what is enough to see that they run.
TINY = {
    "patients=800": "patients=24",
    "batch_size=16": "batch_size=4",
    "size=128": "size=32",
    "epochs=3": "epochs=1",
    "resamples=200": "resamples=10",
}


def text_of(path: Path) -> str:
    """A page; of a notebook, its prose and its cells as blocks of code."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def test_the_page_of_settings_lists_those_that_all_stages_of_a_run_share():
    page = (ROOT / "docs/settings.md").read_text()
    listed = re.search(r"Run-wide settings \(([^)]*)\)", page)
    assert listed is not None
    assert tuple(re.findall(r"`(\w+)`", listed[1])) == configs.RUN_WIDE


# --- links ---------------------------------------------------------------------------------------


def anchors_of(path: Path) -> set[str]:
    """Names of the headings, as GitHub and MyST make them."""
    text = re.sub(r"```.*?```", "", text_of(path), flags=re.DOTALL)
    included = re.findall(r"```{include} (\S+)", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    own = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}
    return own.union(*(anchors_of((path.parent / name).resolve()) for name in included))


@pytest.mark.parametrize("page", [*PAGES, NOTEBOOK], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text_of(page), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors_of(there), f"{page.name}: {target}"


def test_every_page_is_in_the_book():
    listed = set()
    for page in (ROOT / "docs").rglob("*.md"):
        for block in re.findall(r"```{toctree}(.*?)```", page.read_text(), flags=re.DOTALL):
            for name in re.findall(r"^(?!:)(\S+)$", block, flags=re.MULTILINE):
                listed |= {one.resolve() for one in page.parent.glob(f"{name}.*")}
    pages = {path for path in PAGES if path.is_relative_to(ROOT / "docs")} | {NOTEBOOK}
    assert pages - listed == {ROOT / "docs/index.md"}


# --- commands ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A room of the package, its subcommand if it has some, and the words after them."""

    room: str
    words: tuple[str, ...]

    def check(self):
        """Raises where the command would not understand its words."""
        words = list(self.words)
        if words[:1] == ["verify"]:
            assert self.room == "export"
            assert len(words) == 2
            return
        key = (self.room, *words[:1]) if (self.room, *words[:1]) in CONFIGS else (self.room,)
        words = words[len(key) - 1 :]
        if self.room == "data":
            words = as_settings(words)
        if key == ("evaluate", "compare"):
            assert sum("=" not in word for word in words) == 2, "compare what?"
            words = [word for word in words if "=" in word]
        if key == ("benchmark",):
            check_stages([word for word in words if word.startswith(("frozen.", "finetune."))])
            words = [word for word in words if not word.startswith(("frozen.", "finetune."))]
        if key == ("explain",):
            assert any("=" not in word for word in words), "explain what?"
            words = [word for word in words if "=" in word]
        if "--help" not in words:
            parse(CONFIGS[key], words, {})


def recipes() -> dict[str, tuple[str, ...] | None]:
    """Of each recipe that passes its words on, the command; None for the others."""
    found, name = {}, ""
    for line in (ROOT / "justfile").read_text().splitlines():
        if match := re.match(r"([a-z][\w-]*)( .*)?:$", line):
            name = match[1]
            found[name] = None
        elif match := re.match(r'    @?python -m oct_jax\.(\w+)((?: \w+)*) "\$@"$', line):
            found[name] = (match[1], *match[2].split())
    return found


def read_command(line: str) -> Command | None:
    """A line of a terminal; None where it runs nothing of ours."""
    words = shlex.split(line, comments=True)
    while words and (words[0] in ("uv", "run", "srun", "nice", "pip", "install", "&&")) | (
        "=" in words[0]
    ):
        words = words[1:]
    if words[:1] == ["just"] and len(words) > 1:
        known = recipes()
        assert words[1] in known, f"no recipe {words[1]}"
        if known[words[1]] is None:
            return None
        room, *first = known[words[1]]
        return Command(room, (*first, *words[2:]))
    if words[:2] == ["python", "-m"] and words[2].startswith("oct_jax."):
        return Command(words[2].removeprefix("oct_jax."), tuple(words[3:]))
    if words[:1] == ["python"] and words[1].startswith("experiments/"):
        check_experiment(words[1], words[2:])
    return None


def check_stages(words: list[str]):
    """Words such as `finetune.epochs=8` are settings of `train`."""
    for word in words:
        name, _, value = word.partition("=")
        stage, _, setting = name.partition(".")
        parse(configs.TrainConfig, [f"stage={stage}", f"{setting}={value}"], {})


def check_experiment(script: str, words: list[str]):
    """The script exists and reads the settings it is given."""
    source = (ROOT / script).read_text()
    check_stages([word for word in words if "=" in word and "." in word.partition("=")[0]])
    for word in words:
        name, equals, _ = word.partition("=")
        if "." not in name and equals:
            assert f'"{name}"' in source, f"{script} reads no {name}"


def commands_of(page: Path) -> list[str]:
    """Lines of code blocks and code in the text that begin as a command does."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    begins = r"(?:[A-Z_]+=\S+ )*(?:uv run |srun |pip install uv && uv run )?"
    begins += r"(?:just|python -m oct_jax|python experiments/)"
    lines = re.findall(rf"^(?: {{4}})?({begins}.*)$", text, flags=re.MULTILINE)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines += re.findall(rf"`({begins}[^`\n]* [^`\n]*)`", prose)
    # A command's bare name in the text is no command line.
    bare = re.compile(r"(just|python -m) [\w.-]+( [a-z]+)?")
    return [line for line in lines if "..." not in line and not bare.fullmatch(line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_are_understood(page):
    for line in commands_of(page):
        try:
            command = read_command(line)
            if command is not None:
                command.check()
        except Exception as error:
            raise AssertionError(f"{page.name}: {line}: {error}") from error


def test_a_wrong_command_is_noticed():
    with pytest.raises(Exception, match="epoch"):
        read_command("uv run just train stage=frozen epoch=3  # so").check()
    with pytest.raises(Exception, match="explain what"):
        read_command("python -m oct_jax.explain run=runs/mine").check()
    with pytest.raises(AssertionError, match="no recipe"):
        read_command("just trian stage=frozen")
    with pytest.raises(AssertionError, match="reads no flods"):
        read_command("python experiments/crossvalidate.py flods=3")
    assert sum(len(commands_of(page)) for page in PAGES) > 40


# --- Python --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder with what the pages speak of: runs and a scan."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("default", "mine"):
        make_run(folder / "runs" / name)
    Image.fromarray(phantom_scans(patients=24, seed=5).read(0)).save(folder / "scan.png")
    write_vol(folder / "eye.vol", bscans(25))
    return folder


def blocks_of(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def blocks() -> list:
    found = []
    for page in PAGES:
        if page == RECIPES:
            continue
        for number, code in enumerate(blocks_of(page)):
            name = f"{page.relative_to(ROOT)}-{number}"
            found.append(pytest.param(code, id=name))
    return found


@pytest.mark.parametrize("code", blocks())
def test_python_runs(code, desk, monkeypatch, capsys):
    compiled = compile(code, "block", "exec")
    if not code.startswith("# needs "):
        monkeypatch.chdir(desk)
        exec(compiled, {})


def test_the_recipes_of_the_library_run_in_their_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for number, code in enumerate(blocks_of(RECIPES)):
        exec(compile(code, f"{RECIPES.name}, block {number}", "exec"), names)
    assert [path.name for path in tmp_path.iterdir()] == ["layers.safetensors"]
    decision = names["calibrated"].predict(names["images"][0]).decision
    assert decision.referral is not None
    assert names["decided"].probabilities.shape == (48, 3)


def test_the_whole_way_takes_thirty_lines():
    code = blocks_of(RECIPES)[0]
    assert len(code.splitlines()) <= 30
    for step in ("callbacks=", "evaluate(", "explain(", ".save(", "load(", "frozen(", "finetune("):
        assert step in code


# --- the tutorial --------------------------------------------------------------------------------


def test_tutorial_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            for text, smaller in TINY.items():
                source = source.replace(text, smaller)
            exec(compile(source, "cell", "exec"), names)
    scan = names["new"].read(0)
    assert names["again"].predict(scan).decision == names["classifier"].predict(scan).decision
    assert list(tmp_path.iterdir()) == []  # a notebook leaves nothing behind


def test_tutorial_is_committed_with_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    assert not any(out["output_type"] == "error" for cell in code for out in cell["outputs"])
    assert NOTEBOOK.stat().st_size < 1_000_000
