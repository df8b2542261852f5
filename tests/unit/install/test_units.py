"""The units as they are shipped, as they are rendered for a machine, and the sample configuration."""

from __future__ import annotations

import pwd
import re
import shutil
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from pydantic import BaseModel
from typer.testing import CliRunner

from watcherd import config, logs
from watcherd.cli import install_service
from watcherd.errors import UsageError
from watcherd.install import machine, units
from watcherd.install.units import Names, Service

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
HOME_OF_ROOT = pwd.getpwuid(0).pw_dir
SHIPPED = ROOT / "systemd"
SAMPLE = ROOT / "config.toml"
RUNNABLE = sorted(path.name for path in SHIPPED.glob("*.service"))

analyzed = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")


def a_service(instance: str = "", **changes: Any) -> Service:
    return replace(
        Service(
            names=Names(instance=instance),
            program=Path("/bin/true"),
            user="watcherd",
            group="watcherd",
            makes_user=True,
            inbox=Path("/srv/watcherd/inbox"),
            outbox=Path("/srv/watcherd/outbox"),
            archive=Path("/srv/watcherd/archive"),
            systemd=252,
        ),
        **changes,
    )


def settings_of(unit: str) -> list[str]:
    """The lines that systemd reads."""
    return [line for line in unit.splitlines() if line and not line.startswith("#")]


# ------------------------------------------------------------------------------------------------------------- sample


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_of(field.annotation, f"{prefix}{name}.")
        elif name not in ("models", "profiles"):
            yield f"{prefix}{name}"


def keys_in(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from keys_in(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_the_sample_is_the_defaults() -> None:
    """Loading config.toml gives what loading nothing gives."""
    assert config.build({}, base=ROOT) == config.load(SAMPLE)


def test_the_sample_names_every_key() -> None:
    """What is not in config.toml does not exist, and the other way round."""
    assert sorted(keys_of(config.Config)) == sorted(keys_in(tomllib.loads(SAMPLE.read_text())))


def test_the_samples_profile_names_every_key_and_loads() -> None:
    """It is there to be uncommented, with the model that it names, so both must be right; one model, or several."""
    text = SAMPLE.read_text()
    model = text[text.index("# [models.retina]") :].partition("\n\n")[0]
    profile = text[text.index("# [profiles.coronary]") :]
    values = tomllib.loads(re.sub(r"^# ", "", f"{model}\n{profile}", flags=re.MULTILINE))
    assert sorted(config.Profile.model_fields) == sorted(values["profiles"]["coronary"])
    either = [values["profiles"]["coronary"].pop(key) for key in ("model", "models")]
    for key, value in zip(("model", "models"), either, strict=True):
        profiles = {"coronary": values["profiles"]["coronary"] | {key: value}}
        found = config.build(values | {"profiles": profiles}, base=ROOT)
        assert "coronary" == found.options_for("coronary/a.png").profile


def test_every_section_of_the_sample_is_explained() -> None:
    """A comment stands over each table or beside each of its keys."""
    for block in SAMPLE.read_text().split("\n\n")[1:]:
        assert "#" in block, block


def test_an_installed_configuration_differs_in_its_folders_alone() -> None:
    """install-service writes the sample with absolute folders, comments and all."""
    mine = a_service(instance="left", inbox=Path("/data/a b"), archive=Path("/data/done"), outbox=Path("/data/out"))
    text = units.configuration(mine, SAMPLE.read_text())
    folders = {
        "inbox": {"path": Path("/data/a b"), "archive_path": Path("/data/done")},
        "outbox": {"path": Path("/data/out")},
        "state": {"path": Path("/var/lib/watcherd-left")},
    }
    assert config.build(folders, base=Path("/etc/watcherd")) == config.build(tomllib.loads(text), base=Path("/"))
    assert 4 == sum(old != new for old, new in zip(SAMPLE.read_text().splitlines(), text.splitlines(), strict=True))


# ------------------------------------------------------------------------------------------------------ shipped units


def test_the_template_is_the_unit_with_folders_of_its_own() -> None:
    """watcherd@.service cannot fall behind watcherd.service; the same for pruning."""
    for plain, instances in (
        ("watcherd.service", "watcherd@.service"),
        ("watcherd-prune.service", "watcherd-prune@.service"),
        ("watcherd-prune.timer", "watcherd-prune@.timer"),
        ("watcherd-web.service", "watcherd-web@.service"),
    ):
        expected = "\n".join(settings_of((SHIPPED / plain).read_text()))
        for pattern, replacement in (
            (r"%E/watcherd/config\.toml", "%E/watcherd/%i.toml"),
            (r"(/srv|%S|%C)/watcherd", r"\1/watcherd-%i"),
            (r"(State|Cache|Runtime|Logs)Directory=watcherd", r"\1Directory=watcherd-%i"),
            (r"(Description=watcherd):", r"\1 %i:"),
            (r"backups of watcherd", "backups of watcherd %i"),
            (r"target watcherd\.service", "target watcherd@%i.service"),
        ):
            expected = re.sub(pattern, replacement, expected)
        assert expected.splitlines() == settings_of((SHIPPED / instances).read_text())


def test_pruning_is_as_confined_as_the_service() -> None:
    """The hardening of the two units is line for line the same."""
    lines = settings_of((SHIPPED / "watcherd.service").read_text())
    hardening = lines[lines.index("ProtectSystem=strict") : lines.index("[Install]")]
    prune = settings_of((SHIPPED / "watcherd-prune.service").read_text())
    assert hardening == prune[prune.index("ProtectSystem=strict") :]


def test_the_page_is_as_confined_as_the_service_but_for_the_network() -> None:
    """And it has no GPU, and may limit its workers' memory."""
    lines = settings_of((SHIPPED / "watcherd.service").read_text())
    service = set(lines[lines.index("ProtectSystem=strict") : lines.index("[Install]")])
    web = settings_of((SHIPPED / "watcherd-web.service").read_text())
    page = set(web[web.index("ProtectSystem=strict") : web.index("[Install]")])
    assert service - page == {
        "DeviceAllow=char-nvidia* rw",
        "SystemCallFilter=set_mempolicy mbind sched_setaffinity sched_setscheduler setpriority",
        "PrivateNetwork=yes",
        "RestrictAddressFamilies=AF_UNIX AF_NETLINK",
    }
    assert "IPAddressDeny=any" in page
    assert "IPAddressAllow=localhost" in page


def test_every_line_of_hardening_has_its_reason() -> None:
    """In watcherd.service each group of settings stands under a comment."""
    text = (SHIPPED / "watcherd.service").read_text()
    hardening = text[text.index("# --- Files") : text.index("[Install]")]
    for group in hardening.strip().split("\n\n"):
        assert group.startswith("# --- ")
        assert not re.search(r"^# ---.*[^.] ---$", group, re.MULTILINE), "a heading is a sentence"


def installed_for_test(folder: Path, files: dict[Path, str], instance: str) -> list[str]:
    for path, text in files.items():
        if path.is_relative_to(units.UNITS):
            name = str(path.relative_to(units.UNITS)).replace("@.", f"@{instance}.")
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
    return sorted(str(path) for path in folder.iterdir() if path.is_file())


@analyzed
def test_systemd_accepts_the_shipped_units_silently(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say; the programs alone are others, as ours is not in /opt here."""
    for path in SHIPPED.glob("watcherd*"):
        if path.suffix in {".service", ".timer", ".slice"}:
            text = re.sub(r"/opt/watcherd/bin/watcherd|/usr/bin/storescp", "/bin/true", path.read_text())
            (tmp_path / path.name).write_text(text)
    names = sorted(str(path) for path in tmp_path.iterdir())
    answer = subprocess.run(["systemd-analyze", "verify", *names], capture_output=True, text=True)
    assert (0, "", "") == (answer.returncode, answer.stdout, answer.stderr)


@analyzed
@pytest.mark.parametrize("name", RUNNABLE)
def test_the_shipped_units_expose_little(name: str) -> None:
    """`systemd-analyze security` gives at most 0.6; what listens on the network cannot be without it."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", SHIPPED / name]
    answer = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"exposure level for .*: ([\d.]+)", answer.stdout)
    assert found, answer.stdout + answer.stderr
    listens = {"watcherd-storescp.service": 1.0, "watcherd-web.service": 1.1, "watcherd-web@.service": 1.1}
    listens |= {f"watcherd-{part}.service": 1.3 for part in ("head", "bridge", "worker")}
    assert float(found[1]) <= listens.get(name, 0.6)


def test_the_sysusers_and_tmpfiles_are_those_that_are_rendered() -> None:
    """What packages take from systemd/ is what install-service makes for the default folders."""
    mine = a_service(made_folders=a_service().folders)
    for path, rendered in (("tmpfiles.d/watcherd.conf", units.tmpfiles), ("sysusers.d/watcherd.conf", units.sysusers)):
        shipped = [" ".join(line.split()) for line in settings_of((SHIPPED / path).read_text())]
        assert set(rendered(mine).splitlines()) <= set(shipped)


# ----------------------------------------------------------------------------------------------------- rendered units


@analyzed
@pytest.mark.parametrize("instance", ["", "left"])
def test_systemd_accepts_the_rendered_units_silently(instance: str, tmp_path: Path) -> None:
    """With folders that hold blanks and percent signs, in /home, and a GPU's nvidia-modprobe."""
    mine = a_service(
        instance,
        inbox=Path("/home/anna/my scans"),
        outbox=Path("/data/100%"),
        made_folders=(Path("/data/100%"),),
        systemd=machine.systemd_version(),
        modprobe=Path("/bin/true"),
    )
    names = installed_for_test(tmp_path, units.render(mine, SHIPPED), instance)
    answer = subprocess.run(["systemd-analyze", "verify", *names], capture_output=True, text=True)
    assert (0, "", "") == (answer.returncode, answer.stdout, answer.stderr)


@pytest.mark.parametrize(
    ("inbox", "archive", "outbox", "expected"),
    [
        ("/srv/watcherd/inbox", "/srv/watcherd/archive", "/srv/watcherd/outbox", "-/srv/watcherd"),
        ("/data/in", "/data/in-archive", "/results/out", "-/data -/results/out"),
        ("/in", "/in-archive", "/out", "-/in -/in-archive -/out"),
        ("/home/anna/in", "/home/anna/done", "/data/out", "-/home/anna/in -/home/anna/done -/data/out"),
    ],
)
def test_scans_can_be_renamed_into_the_archive(inbox: str, archive: str, outbox: str, expected: str) -> None:
    """Folders beside each other share one mount of the sandbox; / and people's homes are not opened for that."""
    mine = a_service(inbox=Path(inbox), archive=Path(archive), outbox=Path(outbox))
    assert f"\nReadWritePaths={expected}\n" in units.local_lines(mine, "watcherd.service")


@pytest.mark.parametrize(
    ("systemd", "kind", "steps"), [(252, "notify", False), (253, "notify-reload", False), (257, "notify-reload", True)]
)
def test_the_unit_uses_what_this_systemd_knows(systemd: int, kind: str, steps: bool) -> None:
    """notify-reload from 253 on, growing pauses from 254 on; an older one gets no key that it would warn of."""
    for instance in ("", "left"):
        mine = a_service(instance, systemd=systemd)
        lines = settings_of(units.render(mine, SHIPPED)[mine.names.units[0]])
        assert [f"Type={kind}"] == [line for line in lines if line.startswith("Type=")]
        assert steps == ("RestartSteps=6" in lines)
        assert "ExecReload=/bin/true reload --config %E/watcherd/" in "\n".join(lines)


def test_the_drop_in_lets_through_what_this_machine_needs() -> None:
    """Folders in /home exist for the service by name alone; blanks and percent signs keep their meaning."""
    mine = a_service(inbox=Path("/home/anna/my scans"), outbox=Path("/data/100%"), modprobe=Path("/usr/bin/nv"))
    text = units.local_lines(mine, "watcherd.service")
    assert 'RequiresMountsFor="/home/anna/my scans" /srv/watcherd/archive /data/100%%\n' in text
    assert 'ReadWritePaths=\nReadWritePaths="-/home/anna/my scans" -/srv/watcherd/archive -/data/100%%\n' in text
    assert 'ProtectHome=tmpfs\nBindPaths="/home/anna/my scans"\n' in text
    assert "ExecStartPre=-+/usr/bin/nv -u -c 0\n" in text
    plain = units.local_lines(a_service(), "watcherd-prune.service")
    assert "ProtectHome" not in plain
    assert "nv" not in plain


def test_folders_that_were_there_before_are_left_as_they_are() -> None:
    """systemd-tmpfiles would change their owner and mode: only folders that install-service made are listed."""
    files = units.render(a_service(made_folders=(Path("/data/out"),), outbox=Path("/data/out")), SHIPPED)
    assert ["d /data/out 2750 watcherd watcherd -"] == settings_of(files[Path("/etc/tmpfiles.d/watcherd.conf")])
    assert Path("/etc/tmpfiles.d/watcherd.conf") not in units.render(a_service(), SHIPPED)


def test_files_of_ours_are_known_by_their_first_lines() -> None:
    """So uninstall-service takes away no file of anybody else's, and no edit is lost."""
    text = units.marked("[Unit]\n", "watcherd@left.service")
    assert "systemctl edit watcherd@left`" in text
    assert units.is_ours(text)
    assert not units.is_ours(text + "# edited\n")
    assert not units.is_ours("[Unit]\n")


def test_edited_files_are_kept_beside_the_new_ones(tmp_path: Path) -> None:
    """A second install-service writes only what differs, and loses nobody's edit."""
    path = tmp_path / "etc" / "watcherd.service"
    assert [path] == machine.write({path: units.marked("a\n", "x")})
    assert [] == machine.write({path: units.marked("a\n", "x")})
    assert [path] == machine.write({path: units.marked("b\n", "x")})
    assert [path] == sorted(path.parent.iterdir())
    path.write_text(path.read_text() + "mine\n")
    edited = path.read_text()
    assert [path] == machine.write({path: units.marked("c\n", "x")})
    assert edited == Path(f"{path}.saved").read_text()
    assert units.marked("c\n", "x") == path.read_text()


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("inbox", "not an absolute path"),
        (f"{HOME_OF_ROOT}/inbox", f"lies in {HOME_OF_ROOT}"),
        ("/tmp/inbox", "lies in /tmp"),  # noqa: S108
        ('/data/"inbox"', "characters"),
        ("/data/in\nbox", "characters"),
        ("/data/in:box", "characters"),
    ],
)
def test_folders_that_the_service_could_not_use_are_refused(folder: str, why: str) -> None:
    """Each with the reason."""
    assert why in str(units.unfit(Path(folder)))


def test_usual_folders_are_accepted() -> None:
    """Also those with blanks and letters of any language."""
    for folder in ("/srv/watcherd/inbox", "/home/anna/scans", "/data/my scans/Gefäße 100%"):
        assert units.unfit(Path(folder)) is None


@pytest.mark.parametrize("instance", ["config", "Left", "a/b", "-a", "a b", "x" * 32, "ä"])
def test_names_that_an_instance_cannot_have_are_refused(instance: str) -> None:
    """They would be no file's name, or that of the service without a name."""
    with pytest.raises(UsageError, match="cannot be the name of a service"):
        install_service._names(instance)


def test_an_interpreter_that_the_service_cannot_see_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason and the two commands that put it right."""
    monkeypatch.setattr("sys.argv", ["watcherd", "install-service", "--inbox", "/data/my scans"])
    with pytest.raises(UsageError) as refused:
        machine.check_interpreter(Path("/home/anna/venv/bin/watcherd"))
    assert "the service sees nothing of /home (ProtectHome=yes)" in refused.value.message
    assert [
        "python3 -m venv /opt/watcherd && /opt/watcherd/bin/pip install watcherd",
        "/opt/watcherd/bin/watcherd install-service --inbox '/data/my scans'",
    ] == refused.value.hint.splitlines()[-2:]


def test_an_interpreter_that_only_its_owner_may_enter_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As after `umask 077`; the message names the folder."""
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("sys.executable", "/usr/bin/python3")
    monkeypatch.setattr(machine, "PACKAGE", Path("/usr"))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for parent in closed.parents:
        if not parent.stat().st_mode & 0o001:
            closed = parent  # the test's own folder is closed already
    with pytest.raises(UsageError, match=f"only its owner may enter {closed}"):
        machine.check_interpreter(tmp_path / "closed" / "watcherd")


# ---------------------------------------------------------------------------------------------------- the two commands


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> typer.Typer:
    """The commands on a machine with no unit and no configuration of ours."""
    monkeypatch.setattr(units, "CONFIGURATION", tmp_path / "etc")
    monkeypatch.setattr(units, "UNITS", tmp_path / "units")
    monkeypatch.setattr(machine, "check_interpreter", lambda program: None)
    monkeypatch.setattr(machine, "systemd_version", lambda: 252)
    app = typer.Typer()
    app.command("install-service")(install_service.install_service)
    app.command("uninstall-service")(install_service.uninstall_service)
    return app


def test_print_unit_and_dry_run_change_nothing(commands: typer.Typer, tmp_path: Path) -> None:
    """They say what would stand where."""
    shown = CliRunner().invoke(commands, ["install-service", "--instance", "left", "--print-unit"])
    assert "ExecStart=" in shown.output
    assert f"# {tmp_path}/units/watcherd@left.service.d/10-watcherd.conf" in shown.output
    planned = CliRunner().invoke(commands, ["install-service", "--dry-run", "--inbox", "/data/in"])
    assert f"would write {tmp_path}/etc/config.toml" in planned.output
    assert "would make /data/in-archive" in planned.output
    assert "would enable and start watcherd.service and watcherd-prune.timer" in planned.output
    as_json = CliRunner().invoke(commands, ["install-service", "--dry-run", "--json"])
    assert '"unit": "watcherd.service"' in as_json.output
    assert [] == list(tmp_path.iterdir())


def test_options_must_agree_with_a_configuration_that_is_there(commands: typer.Typer, tmp_path: Path) -> None:
    """It is never written over."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "config.toml").write_text(
        '[inbox]\npath = "/data/in"\narchive_path = "/data/done"\n[outbox]\npath = "/data/out"\n'
    )
    agreed = CliRunner().invoke(commands, ["install-service", "--print-unit", "--inbox", "/data/in"])
    assert "RequiresMountsFor=/data/in /data/done /data/out\n" in agreed.output
    refused = CliRunner().invoke(commands, ["install-service", "--dry-run", "--inbox", "/data/other"])
    assert isinstance(refused.exception, UsageError)
    assert f"{tmp_path}/etc/config.toml says inbox.path = '/data/in'" in refused.exception.message


def test_what_was_not_installed_is_not_uninstalled(commands: typer.Typer) -> None:
    """The message names what is there."""
    refused = CliRunner().invoke(commands, ["uninstall-service", "--instance", "left"])
    assert isinstance(refused.exception, UsageError)
    assert "What it put here: nothing." == refused.exception.hint


# ------------------------------------------------------------------------------------------------------------- manual


def test_the_manual_names_every_message_id() -> None:
    """docs/operations.md lists the events that journalctl finds by MESSAGE_ID."""
    text = (ROOT / "docs" / "operations.md").read_text()
    for event, message_id in logs.MESSAGE_IDS.items():
        assert re.search(rf"`{event}`.*`{message_id}`", text), event
