"""The arrows of the architecture: who may import whom."""

import ast
import re
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_imports

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "wavtokenizer_hf"

CONFIGURATION = "configuration_wavtokenizer"
AUDIO_INPUT = "audio_input"
AUDIO_PREPARATION = "audio_preparation"
CODEC_FILES_OF_ALL = "codec_files"
FEATURE_EXTRACTION = "feature_extraction_wavtokenizer"
CODEC_FILES = [CONFIGURATION, FEATURE_EXTRACTION, "modeling_wavtokenizer"]
ARITHMETIC, CHECKS, NEAREST = (f"{kind}_wavtokenizer" for kind in ("arithmetic", "checks", "nearest"))
PROCESSING = "processing_wavtokenizer"
EVENT_FILES = [
    f"{kind}_sparse_event_codec" for kind in ("configuration", "feature_extraction", "modeling", "rendering")
]
FLAT_FILES = [
    *(AUDIO_INPUT, AUDIO_PREPARATION, CODEC_FILES_OF_ALL, ARITHMETIC, CHECKS, NEAREST),
    *CODEC_FILES,
    PROCESSING,
    *EVENT_FILES,
]

# The flat files that each flat file imports.
SIBLINGS = {
    AUDIO_INPUT: [],
    AUDIO_PREPARATION: [AUDIO_INPUT],
    CODEC_FILES_OF_ALL: [],
    CONFIGURATION: [CODEC_FILES_OF_ALL],
    FEATURE_EXTRACTION: [AUDIO_INPUT, AUDIO_PREPARATION, CODEC_FILES_OF_ALL],
    ARITHMETIC: [],
    CHECKS: [ARITHMETIC],
    NEAREST: [ARITHMETIC],
    "modeling_wavtokenizer": [ARITHMETIC, CHECKS, CODEC_FILES_OF_ALL, CONFIGURATION, NEAREST],
    PROCESSING: [CODEC_FILES_OF_ALL, *CODEC_FILES],
    "configuration_sparse_event_codec": [CODEC_FILES_OF_ALL],
    # Reading and resampling have one home.
    "feature_extraction_sparse_event_codec": [FEATURE_EXTRACTION],
    "rendering_sparse_event_codec": ["configuration_sparse_event_codec"],
    "modeling_sparse_event_codec": ["configuration_sparse_event_codec", "rendering_sparse_event_codec"],
}

# What each part of the package may import of the rest of it. "triple" is the flat files and the package's own names.
MAY_IMPORT = {
    "checkpoints": {"triple"},
    "triple": {"checkpoints"},
    # The registry knows the families by the names of their modules, and imports one when its model is met.
    "codecs": {"triple", "checkpoints"},
    "audio": {"triple", "codecs"},
    "streaming": {"triple", "audio", "codecs"},
    "families": {"triple", "codecs", "streaming"},
    "language": {"triple", "streaming"},
    "corpus": {"triple", "audio", "streaming", "language", "codecs"},
    "evaluation": {"triple", "audio", "streaming", "language", "codecs"},
    "hub": {"triple", "audio", "streaming", "language", "codecs"},
    "conversion": {"triple", "audio", "hub", "checkpoints"},
    "training": {"triple", "audio", "streaming", "language", "evaluation", "conversion", "checkpoints", "codecs"},
    "cli": {
        *("triple", "audio", "streaming", "language", "corpus", "evaluation", "hub", "conversion", "training"),
        *("checkpoints", "codecs"),
    },
    "demo": {"triple", "audio", "streaming", "language", "corpus", "evaluation", "hub", "training"},
    "__main__": {"cli"},
}


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if not path.is_relative_to(ROOT / ".cache"))


def imported_modules(path: Path, module_level_only: bool = False) -> set[str]:
    """Absolute names of what a file imports, wherever in it, also by `importlib.import_module` with a literal."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    nodes = module_level(tree) if module_level_only else ast.walk(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                names.add(node.args[0].value)
    return names


def module_level(tree: ast.AST):
    """Nodes that run when a module is imported: everything outside functions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield node
            yield from module_level(node)


def top(name: str) -> str:
    return name.partition(".")[0]


def part_of(name: str) -> str | None:
    """The part of the package that an absolute name belongs to; None outside the package."""
    pieces = name.split(".")
    if pieces[0] != "wavtokenizer_hf":
        return None
    return pieces[1] if len(pieces) > 1 and pieces[1] in MAY_IMPORT else "triple"


def home_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "triple" if first in (*FLAT_FILES, "__init__") else first


def test_every_part_of_the_package_has_a_rule():
    assert {home_of(path) for path in sources(PACKAGE)} <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", sources(PACKAGE), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_towards_the_triple(path):
    home = home_of(path)
    parts = {part_of(name) for name in imported_modules(path)} - {None, home}
    assert parts <= MAY_IMPORT[home]


@pytest.mark.parametrize("path", sources(PACKAGE), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_package_imports_nothing_that_is_not_shipped_with_it(path):
    assert not {top(name) for name in imported_modules(path)} & {"conversion", "tests", "benchmarks", "examples"}


def test_conversion_imports_nothing_that_nobody_may_import():
    for path in sources(ROOT / "conversion"):
        assert not {top(name) for name in imported_modules(path)} & {"tests", "benchmarks", "examples"}, path


def test_only_the_command_line_itself_imports_the_command_line():
    package = [path for path in sources(PACKAGE) if home_of(path) not in ("cli", "demo", "__main__")]
    for path in package + sources(ROOT / "benchmarks"):
        assert not {part_of(name) for name in imported_modules(path)} & {"cli", "demo"}, path


def test_audio_libraries_are_imported_by_calls_only():
    for path in sources(PACKAGE):
        found = {top(name) for name in imported_modules(path, module_level_only=True)}
        assert not found & {"torchaudio", "soundfile", "av"}, path


def test_flat_files_import_what_the_hub_may_demand_and_nothing_else():
    for name in FLAT_FILES:
        path = PACKAGE / f"{name}.py"
        # transformers' own scanner decides what a user of the remote code has to install, and which files travel.
        assert set(get_imports(path)) <= {"torch", "numpy", "transformers", "huggingface_hub"} | set(
            sys.stdlib_module_names
        )
        assert set(get_relative_imports(path)) == set(SIBLINGS[name])


def test_flat_files_import_their_siblings_in_the_one_form_that_the_scanner_follows():
    for name in FLAT_FILES:
        tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1
                assert node.module in FLAT_FILES
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
                assert all(top(imported) != "wavtokenizer_hf" for imported in names)


def test_the_walk_sees_every_form_of_import(tmp_path, monkeypatch):
    """A rule that sees nothing would always hold."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "wavtokenizer_hf" / "audio" / "files.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import a.b\n"
        "from ..hub import export\n"
        "from . import codes\n"
        "def call():\n"
        "    import torchaudio\n"
        "    return importlib.import_module('soundfile')\n"
        "class Lazy:\n"
        "    import c\n"
        "try:\n"
        "    from d import e\n"
        "except ImportError:\n"
        "    pass\n"
    )
    at_import = {"a.b", "wavtokenizer_hf.hub", "wavtokenizer_hf.hub.export", "c", "d", "d.e"}
    at_import |= {"wavtokenizer_hf.audio", "wavtokenizer_hf.audio.codes"}
    assert imported_modules(path, module_level_only=True) == at_import
    assert imported_modules(path) == at_import | {"torchaudio", "soundfile"}
    assert {part_of(name) for name in at_import} == {None, "hub", "audio"}


def test_each_module_stands_in_the_tree_of_the_architecture():
    tree = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    in_tree: dict[str, set[str]] = {}
    folder = "root"
    for line in tree.splitlines():
        named = re.match(r"  (\w+)/ ", line)
        folder = named[1] if named else "root" if re.match(r"  \w", line) else folder
        in_tree.setdefault(folder, set()).update(re.findall(r"\w+", line.removeprefix("  ")))
    missing = []
    for path in sources(PACKAGE):
        parts = path.relative_to(PACKAGE).parts
        words = in_tree[parts[0] if len(parts) > 1 else "root"]
        # Flat files of a family share a line: `configuration_ · modeling_wavtokenizer`.
        cuts = [match.end() for match in re.finditer("_", path.stem)]
        is_there = path.stem in words or any(
            path.stem[:cut] in words and any(word.endswith(path.stem[cut:]) for word in words) for cut in cuts
        )
        if not is_there and path.stem not in ("__init__", "__main__"):
            missing.append(str(path.relative_to(PACKAGE)))
    assert not missing


def test_no_two_public_classes_share_a_name():
    places: dict[str, list[str]] = {}
    for path in sources(PACKAGE):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert len(places) > 100
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
