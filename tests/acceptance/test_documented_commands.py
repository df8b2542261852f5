"""Every command in README and docs is run for real, beside a daemon with a small history, or has a reason not to be."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.service import PATIENCE, Service, broken, png
from watcherd.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

NOT_RUN = {
    r"(systemctl|journalctl) ": "needs the service under systemd: tests/acceptance/test_systemd.py",
    r"(\S*/)?watcherd (un)?install-service": "needs systemd and root: tests/acceptance/test_systemd.py",
    r"(testparm|smbpasswd) ": "needs Samba and root: tests/acceptance/test_samba.py",
    r"apt install |install -m |curl -u |storesc[pu] ": "needs DCMTK, Orthanc and root: tests/acceptance/test_pacs.py",
    r"([A-Z_]+=\S+ )?docker compose |export WATCHERD_|install -d ": "needs Docker: tests/acceptance/test_container.py",
    r"usermod |chown ": "changes the users and files of this machine",
    r"mkdir -p /etc|printf .* > /etc|ln -s |rm -rf /opt|editor ": "changes this machine's folders",
    r"rsync ": "needs two machines",
    r"python3 -m venv|(\S*/)?pip install|export UV_|uv tool install": "downloads: tests/integration/test_wheel.py",
    r"make \w": "a target of the Makefile, which the test below looks for",
    r"(\S*/)?python -m benchmarks": "measures for minutes",
    r"watcherd stop": "ends the service that the others need: tests/acceptance/test_steering.py",
    r"watcherd web$": "goes on until somebody ends it: tests/integration/web/test_server.py",
    r"watcherd (head|bridge|worker|plan --cluster)": "needs Ray, and goes on until somebody ends it: test_cluster.py",
    r"watcherd top": "needs a terminal: tests/integration/cli/test_top.py",
    r"watcherd status --watch": "needs a terminal: tests/integration/cli/test_status.py",
    r"watcherd logs .*--follow": "goes on until somebody ends it: tests/integration/cli/test_logs.py",
    r"watcherd (inspect|export)-model": "needs a checkpoint of gigabytes: tests/unit/cli/test_models.py",
    r"watcherd --install-completion": "writes into a home: tests/integration/cli/test_completion.py",
}
"""How commands begin that cannot be run on any machine, and why."""

ELSEWHERE = {
    "sql": "below, and tests/integration/store/test_questions.py",
    "toml": "tests/unit/test_docs.py loads it",
    "python": "tests/unit/inference/test_contract.py runs it",
    "mermaid": "tests/unit/test_job.py compares it with the table of transitions",
    "ini": "drop-ins and shares of other programs",
    "yaml": "another program's configuration",
    "promql": "another program's language",
    "": "other programs' files",
}
"""Blocks that are no commands, and what becomes of them."""

STANDS_FOR = {
    "/etc/watcherd/config.toml": "config.toml",
    "/etc/watcherd/retina.toml": "config.toml",
    "/var/lib/watcherd/watcherd.db": "state/watcherd.db",
    "runuser -u watcherd -- ": "",
    "/opt/watcherd/bin/watcherd": "watcherd",
    "watcherd config init": "watcherd config init first.toml",
    "BACKUP": "copy.db",
    "watcherd demo": "WATCHERD_MODEL__SEGMENTER=vesselness watcherd demo",
    "--model DIR": "--model models/sa2va-8b",
    "--images DIR --masks DIR": "--images chase/images --masks chase/masks",
    "DIR/images --masks DIR/masks": "chase/images --masks chase/masks",
    "/var/lib/scan-done": "scan-done",
    "/srv/masks": "masks-elsewhere",
    "/etc/bash_completion.d/": "completion-",
    "/usr/local/share/zsh/site-functions/": "completion-",
    "/etc/fish/vendor_completions.d/": "completion-",
}
"""What the docs name, and what there is instead of it in the folder where the commands are run. The demo with its own
model takes half a minute of CPU: tests/integration/test_wheel.py runs it."""


DEPENDS = {
    "watcherd plan --model models/sa2va-8b": (0, 69),
    "watcherd show 17 --open": (0, 64, 69),
    'watcherd evaluate --jobs "since 7d" --masks chase/masks --out last-week': (65,),
    "watcherd evaluate --accepted --jobs '' --out of-reviews": (65,),
    "watcherd compare MODEL OTHER                 # how much two models agree on the same scans": (64,),
    "watcherd compare coronary coronary-new": (64,),
    "watcherd compare coronary coronary-new --since 30d --profile trial --pictures differences": (64,),
    "watcherd compare coronary coronary-new --folder trial/monday --limit 0 --json": (64,),
}
"""Commands whose answer is about this very machine (it fits or not, there is a display or not, no job is of a scan that
somebody has drawn, nobody has accepted a mask, it has no such models), and its exit codes."""

BEFORE = {
    r"watcherd retry": "watcherd pause; watcherd cancel 17 18 19",
    r"watcherd (cancel|prioritise)": "watcherd pause; watcherd retry 17 18 19",
    r"watcherd submit .*--wait": "watcherd resume",
}
"""What makes sure that there is something to be done, whatever other commands have done."""


FILES = ("scan.png", "run-17/1.jpg", "run-17/2.jpg", "left.tif", "right.tif")
FILES += tuple(f"chase/{folder}/Image_01L.png" for folder in ("images", "masks", "masks2", "fov"))
"""Files that commands name."""

PROFILE = {"profiles.coronary": {"folder": "coronary"}}
"""Which commands name too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One command line of a page, with what is typed into it."""

    page: str
    line: str
    typed: str = ""

    @property
    def reason(self) -> str | None:
        """Why it is not run; None when it is."""
        return next((reason for begin, reason in NOT_RUN.items() if re.match(begin, self.line)), None)

    @property
    def here(self) -> str:
        """As it is run."""
        line = self.line
        for theirs, ours in STANDS_FOR.items():
            line = line.replace(theirs, ours)
        return line


def commands(page: Path) -> Iterator[Command]:
    """Those of a page, in order: a prompt before a line is taken off, and a script is one command."""
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        if block.startswith("#!"):
            yield Command(page=page.name, line=block)
            continue
        found: list[Command] = []
        for line in filter(None, block.splitlines()):
            if line.startswith("sqlite> "):
                before = found.pop()
                typed = before.typed + line.removeprefix("sqlite> ") + "\n"
                found.append(Command(page=page.name, line=before.line, typed=typed))
            else:
                found.append(Command(page=page.name, line=re.sub(r"^\w*[#$] ", "", line)))
        yield from found


EVERY = [command for page in PAGES for command in commands(page)]
RUN = [command for command in EVERY if command.reason is None]


def label(command: Command) -> str:
    return f"{command.page}: {command.line.splitlines()[0][:60]}"


@pytest.fixture(scope="module")
def at_rest(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """Seventeen jobs, of which the last failed, and no daemon; and the files that the commands name."""
    service = Service(tmp_path_factory.mktemp("rest"), **PROFILE)
    for number in range(15):
        service.drop(f"scan-{number + 1}.png", png(number))
    service.drop("run-17_frame_000011.jpg", png(16))
    assert service.once() == 0, service.tail()
    service.drop("scan-17.jpg", broken(17))
    assert service.once() == 0, service.tail()
    shutil.copytree(ROOT / "tests" / "data" / "sa2va" / "internvl3-8b", service.folder / "models" / "sa2va-8b")
    shutil.copy(service.database, service.folder / "copy.db")
    for folder in ("scan-done", "masks-elsewhere"):
        (service.folder / folder).mkdir()
    for number, file in enumerate(FILES):
        (service.folder / file).parent.mkdir(parents=True, exist_ok=True)
        (service.folder / file).write_bytes(png(100 + number))
    return service


@pytest.fixture(scope="module")
def at_work(at_rest: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The same with a daemon that is paused, and with jobs 18 and 19 in the queue."""
    folder = tmp_path_factory.mktemp("work") / "watcherd"
    shutil.copytree(at_rest.folder, folder)
    service = Service(folder, **PROFILE)
    service.start()
    try:
        service.ready()
        assert service.command("pause").returncode == 0
        for number in (18, 19):
            service.drop(f"scan-{number}.png", png(number))
        service.wait(lambda: service.states().get("queued") == 2, "two jobs to wait")
        yield service
    finally:
        service.end()


def environment() -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("WATCHERD_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), inherited["PATH"]])
    return inherited | {"PATH": path, "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}


def by_this_process(line: str, folder: Path) -> subprocess.CompletedProcess[str] | None:
    """What a plain call of watcherd gives, without a second to start Python; None for what only a shell understands."""
    words = shlex.split(line, comments=True)
    if words[0] != "watcherd" or re.search(r"[*;|&<>$]", line):
        return None
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = app.run(words[1:])
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def shell(command: str, folder: Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=environment(),
        input=typed,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", [each for each in RUN if "\n" not in each.line], ids=label)
def test_the_command_works(command: Command, at_rest: Service, request: pytest.FixtureRequest) -> None:
    """Exit code 0, and something said."""
    if command.line.startswith("sqlite3") and shutil.which("sqlite3") is None:
        pytest.skip("no sqlite3 shell here")
    if re.search(r"watcherd (run|db restore|outbox take-over|demo|evaluate)\b", command.line):
        runs_until_stopped = re.search(r"watcherd run(?!.*--once)", command.line)
        (until_stopped if runs_until_stopped else by_itself)(command, at_rest.folder)
        return
    folder = request.getfixturevalue("at_work").folder
    for begin, before in BEFORE.items():
        if re.match(begin, command.line):
            for line in before.split("; "):
                by_this_process(line, folder)
    by_itself(command, folder)


def by_itself(command: Command, folder: Path) -> None:
    done = by_this_process(command.here, folder) or shell(command.here, folder, command.typed)
    assert done.returncode in DEPENDS.get(command.line, (0,)), done.stderr + done.stdout
    assert done.stdout or done.stderr or re.search(r"run --once|select| > |^cp ", command.line)


def until_stopped(command: Command, folder: Path) -> None:
    """Started, ready, stopped in order."""
    status = folder / "state" / "status.json"
    status.unlink(missing_ok=True)
    service = Service.__new__(Service)
    service.folder, service.state, service.logs = folder, folder / "state", folder / "shown.log"
    with service.logs.open("wb") as log:
        line = re.sub(r"\bwatcherd run\b", "exec watcherd run", command.here)
        service.process = subprocess.Popen(
            ["sh", "-c", line], cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        service.ready()
        service.signal(signal.SIGTERM)
        assert 0 == service.ended(), service.tail()
    finally:
        service.end()


@pytest.mark.slow
@pytest.mark.parametrize("command", [each for each in RUN if "\n" in each.line], ids=label)
def test_the_script_works_on_a_finished_job(command: Command, at_rest: Service) -> None:
    """As a hook is called: the job's JSON on standard input, the key in the environment; a second time nothing."""
    if shutil.which("jq") is None:
        pytest.skip("no jq here")
    job = at_rest.json("show", "1")
    call = json.dumps({**job, "outbox": str(at_rest.outbox)})
    script = "export WATCHERD_IDEMPOTENCY_KEY=key-1\n" + command.here
    for _ in range(2):
        done = shell(script, at_rest.folder, call)
        assert 0 == done.returncode, done.stderr
    assert [Path(job["source"]).name] == [path.name for path in (at_rest.folder / "masks-elsewhere").iterdir()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_select_answers_from_a_history(page: Path, at_rest: Service) -> None:
    """One that a daemon wrote."""
    with closing(sqlite3.connect(f"{at_rest.database.as_uri()}?mode=ro", uri=True)) as connection:
        for block in re.findall(r"^```sql\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            for statement in filter(str.strip, block.split(";")):
                connection.execute(statement).fetchall()


def test_every_block_is_a_command_or_looked_after_elsewhere() -> None:
    """A language that is new here needs a place where it is checked."""
    found = {
        language
        for page in PAGES
        for language in re.findall(r"^```(\w*)\n.*?^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    }
    assert set() == found - {"sh", *ELSEWHERE}


def test_every_reason_not_to_run_a_command_is_needed_and_true() -> None:
    """No reason is left from a command that is gone, and the tests that the reasons name are there."""
    idle = [begin for begin in NOT_RUN if not any(re.match(begin, command.line) for command in EVERY)]
    assert [] == idle
    for reason in (*NOT_RUN.values(), *ELSEWHERE.values()):
        for path in re.findall(r"tests/[\w/]+\.py", reason):
            assert (ROOT / path).is_file(), path
    assert len(RUN) >= 25


def test_every_target_that_is_shown_is_one_of_the_makefile() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    shown = {
        target
        for page in PAGES
        for target in re.findall(r"\bmake ([a-z][\w-]+)(?=[`\n ]*(?:#|`|$))", page.read_text(), re.MULTILINE)
    }
    assert {"demo", "test"} <= shown <= set(targets)
