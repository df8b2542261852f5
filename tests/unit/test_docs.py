"""The documentation cannot fall behind: what it names is there, what it shows works, and nothing is left out."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from pydantic import BaseModel

from tools import configuration_page
from watcherd.cli.app import app
from watcherd.config import Config, Profile, build
from watcherd.errors import WatcherdError
from watcherd.job import ErrorClass, Fate, State
from watcherd.logs import MESSAGE_IDS
from watcherd.store import Database, reader

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def spans(page: Path) -> list[str]:
    """What stands between backticks in a page's prose."""
    return re.findall(r"`([^`\n]+)`", prose(page))


# ------------------------------------------------------------------------------------------------------------ commands


def commands(group: Any, prefix: str = "watcherd") -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


EVERY_COMMAND = sorted(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_every_command_is_in_the_docs(command: str) -> None:
    """With its whole name, in README or docs."""
    assert re.search(rf"{command}\b", TEXT)


def shown_commands(page: Path) -> Iterator[list[str]]:
    """The words of every call of watcherd in a page: in its blocks for shells, and between backticks."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    # One that ends in a full stop would be a message, and messages may hold apostrophes.
    calls = [span for span in spans(page) if re.match(r"[\w/]*watcherd ", span) and not span.endswith(".")]
    for line in [*lines, *calls]:
        words = shlex.split(re.sub(r"^(\w*[#$]) ", "", line), comments=True)
        for number, word in enumerate(words):
            if word.rpartition("/")[2] == "watcherd" and (number == 0 or words[number - 1] in ("--", "&&")):
                yield words[number + 1 :]


@pages
def test_every_command_that_is_shown_can_be_called_so(page: Path) -> None:
    """Its name and options exist, what it needs is given, and values are of the right kind."""
    for words in shown_commands(page):
        command = typer.main.get_command(app)
        rest = list(words)
        if set(rest[:1]) & {option for parameter in command.params for option in parameter.opts}:
            continue  # one of watcherd's own, such as --show-completion
        while hasattr(command, "commands") and rest:
            assert rest[0] in command.commands, f"watcherd {shlex.join(words)}"
            command = command.commands[rest.pop(0)]
        if rest or not is_a_name_alone(words):
            check_call(command, rest, words)


def is_a_name_alone(words: list[str]) -> bool:
    """`watcherd retry` in a sentence speaks of the command; it is no call."""
    return not [word for word in words if word.startswith("-")]


def check_call(command: Any, arguments: list[str], words: list[str]) -> None:
    try:
        command.make_context("watcherd", ["1" if word == "ID" else word for word in arguments])
    except Exception as error:  # typer's errors have no public name
        pytest.fail(f"watcherd {shlex.join(words)}: {error!r} {error}")


def test_a_wrong_command_in_the_docs_would_be_found(tmp_path: Path) -> None:
    """The guard itself: an unknown option, an unknown command, a number that is none."""
    page = tmp_path / "page.md"
    for wrong in ("watcherd jobs --stat failed", "watcherd explode", "# runuser -u x -- /opt/watcherd retry one"):
        page.write_text(f"```sh\n{wrong}\n```\n")
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            test_every_command_that_is_shown_can_be_called_so(page)


# ------------------------------------------------------------------------------------------------------- configuration


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield f"{prefix}{name}"
            yield from keys_of(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


FILES = (".py", ".md", ".toml", ".safetensors", ".json")
KEYS = {*keys_of(Config), *keys_of(Profile, "profiles.coronary.")}


def test_every_key_stands_in_the_sample_with_its_meaning() -> None:
    """config.toml is the reference: each key has a comment beside it, or its table has one above."""
    sample = (ROOT / "config.toml").read_text()
    for key in KEYS - {"profiles", "models"}:
        table, _, name = key.rpartition(".")
        if key not in {known.rpartition(".")[0] for known in KEYS}:
            assert re.search(rf"^(# )?{name} = ", sample, re.MULTILINE), key
            assert f"[{table}]" in sample, table


@pages
def test_every_key_that_is_named_exists(page: Path) -> None:
    """`inbox.settle_seconds` and the like, alone or with a value, and what the environment overrides."""
    tables = {key.partition(".")[0] for key in KEYS} - {"profiles", "models"}
    for span in spans(page):
        if (found := re.match(r"([a-z]+)((?:\.[a-z0-9_]+)+)(?: = |$)", span)) and found[1] in tables:
            assert found[1] + found[2] in KEYS or found[2].endswith(FILES), span


def test_the_page_of_the_configuration_is_what_the_program_goes_by() -> None:
    """Keys, defaults, allowed values, meanings and what a reload applies; `python -m tools.configuration_page`."""
    assert configuration_page.page() == configuration_page.PAGE.read_text()


def test_every_key_has_a_row_in_the_page_of_the_configuration() -> None:
    """Below the heading of its table."""
    for table, model in configuration_page.tables():
        section = configuration_page.page().partition(f"\n## `[{table}]`\n")[2].partition("\n## ")[0]
        named = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
        assert {key for key, _ in configuration_page.keys(model)} == named, table


@pages
def test_every_snippet_of_configuration_loads(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block of TOML would be taken as it stands, with the extras that it needs."""
    monkeypatch.setattr("watcherd.config.toml_file.find_spec", lambda _: True)
    for block in blocks(page, "toml"):
        values = tomllib.loads(block)
        if values.keys() & Config.model_fields.keys():
            build(values, base=ROOT)


# ---------------------------------------------------------------------------------------------------- links and files


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files are there, and so are the headings in them."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}"


@pages
def test_every_file_of_the_tree_that_is_named_exists(page: Path) -> None:
    """`watcherd/inbox/sweep.py` and the like."""
    for span in spans(page):
        if re.fullmatch(r"(watcherd|tests|migrations|systemd|benchmarks|training)/[\w./-]*", span):
            assert (ROOT / span).exists(), f"{page.name} names {span}"


def test_every_library_has_its_reason() -> None:
    """In docs/dependencies.md, where parts of one family share a row."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [needs for extra, needs in project["optional-dependencies"].items() if extra != "dev"]
    needed = [name for needs in (project["dependencies"], *extras) for name in needs]
    text = (ROOT / "docs" / "dependencies.md").read_text()
    names = [re.split(r"[><=\[]", each)[0] for each in needed]
    assert [] == [name for name in names if not re.search(rf"\b{name}\b|{name.removeprefix('pylibjpeg')}[ ,]", text)]


def test_every_page_is_reached_from_the_readme() -> None:
    """A page that nothing leads to is not read."""
    readme = PAGES[0].read_text()
    assert [] == [page.name for page in PAGES[1:] if f"](docs/{page.name})" not in readme]


# ----------------------------------------------------------------------------------------------------------- questions


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A history in which nothing has happened yet."""
    path = tmp_path_factory.mktemp("state") / "watcherd.db"
    Database.open(path).close()
    return path


def questions(page: Path) -> Iterator[str]:
    for block in blocks(page, "sql"):
        yield from filter(str.strip, block.split(";"))
    for block in blocks(page, "sh"):
        yield from re.findall(r'sqlite3 [^"\n]*"([^"]+)"', block)
    yield from (span for span in spans(page) if span.startswith("select ") and "…" not in span)


@pages
def test_every_question_to_the_history_runs(page: Path, empty: Path) -> None:
    """Every select in the docs, on the first day too."""
    with reader(empty) as connection:
        for sql in questions(page):
            connection.exec_driver_sql(sql.replace("%", "%%") if "?" in sql else sql).fetchall()


def test_the_readme_asks_the_history() -> None:
    """So that the test above has something to run."""
    assert 3 <= len(list(questions(PAGES[0])))


# -------------------------------------------------------------------------------------------------- words and messages


@pytest.mark.parametrize("word", [*State, *ErrorClass, Fate.SETTLING, Fate.IGNORED, Fate.DUPLICATE])
def test_every_state_class_and_fate_is_explained(word: str) -> None:
    """In a row of its own in docs/concepts.md."""
    assert re.search(rf"^\| `{word}` \| .+ \|$", (ROOT / "docs" / "concepts.md").read_text(), re.MULTILINE)


@pages
def test_every_event_that_is_searched_for_is_one_of_the_log(page: Path) -> None:
    """``EVENT=job_failed`` finds nothing when the event is called otherwise."""
    source = "\n".join(path.read_text() for path in (ROOT / "watcherd").rglob("*.py"))
    for event in re.findall(r"\bEVENT=(\w+)", page.read_text()):
        assert event in MESSAGE_IDS or f'"{event}"' in source, event


@cache
def messages() -> list[str]:
    """Every text in the program, with … for what is filled in."""
    found = []
    for path in (ROOT / "watcherd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def documented_messages() -> list[str]:
    """The first column of the tables of messages in docs/troubleshooting.md."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    tables = re.findall(r"^\| message \|.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [found for table in tables for found in re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)]


def test_every_message_that_is_explained_is_one_of_the_program() -> None:
    """Word for word: people search for what they see."""
    explained = documented_messages()
    assert 25 < len(explained)
    assert [] == [message for message in explained if not any(message in text for text in messages())]


@cache
def exit_codes() -> dict[str, set[int]]:
    """The codes with which the messages end the program, as far as an error of ours is made with one."""
    codes: dict[str, set[int]] = {}
    for path in (ROOT / "watcherd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            kind = ERRORS.get(node.func.id) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None
            if kind is not None and node.args:
                codes.setdefault(said(node.args[0]), set()).add(kind.exit_code)
    return codes


def said(node: ast.AST) -> str:
    """A text, or several that are put together, with … for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp):
        return said(node.left) + said(node.right)
    return str(node.value) if isinstance(node, ast.Constant) else "…"


def kinds(base: type[WatcherdError]) -> Iterator[type[WatcherdError]]:
    yield base
    for each in base.__subclasses__():
        yield from kinds(each)


ERRORS = {kind.__name__: kind for kind in kinds(WatcherdError)}


def test_every_exit_code_that_is_told_is_the_messages_own() -> None:
    """Behind a message in docs/troubleshooting.md, in brackets."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    told = re.findall(r"^\| (`[^|]+`) \((\d+)\) \|", text, re.MULTILINE)
    checked = 0
    for messages_, code in told:
        for message in re.findall(r"`([^`]+)`", messages_):
            found = {number for text, numbers in exit_codes().items() if message in text for number in numbers}
            checked += bool(found)
            assert not found or int(code) in found, message
    assert 20 <= checked


def test_the_changelog_has_a_place_for_what_is_new() -> None:
    """In the manner of Keep a Changelog; the version of the package is not ahead of it."""
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert "Unreleased" == versions[0]
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
