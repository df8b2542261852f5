"""The configuration: read once, checked whole, and wrong in words."""

from pathlib import Path
from typing import Any

import pytest

from watcherd import config
from watcherd.config import Config
from watcherd.errors import ConfigError

SAMPLE = Path(__file__).parents[2] / "config.toml"


def build(tmp_path: Path, **values: Any) -> Config:
    return config.build(values, base=tmp_path)


def test_text_that_cannot_be_stored_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment may hold any bytes; a path may too."""
    monkeypatch.setenv("WATCHERD_MODEL__PATH", "/models/M\udcfcller")
    assert "/models/M\udcfcller" == str(build(tmp_path).model.path)
    monkeypatch.setenv("WATCHERD_MODEL__SA2VA__PROMPT", "M\udcfcller")
    with pytest.raises(ConfigError, match=r"model.sa2va.prompt = .*half a surrogate pair"):
        build(tmp_path)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """Wherever the daemon is started from."""
    settings = build(tmp_path, inbox={"path": "in"}, state={"path": "/var/lib/x"})
    assert tmp_path / "in" == settings.inbox.path
    assert Path("/var/lib/x") == settings.state.path
    assert tmp_path / "outbox" == settings.outbox.path


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"inbox": {"pth": "x"}}, ["inbox.pth", "there is no such key", "settle_seconds"]),
        ({"inbux": {}}, ["inbux", "there is no such key", "inbox"]),
        ({"inbox": {"settle_seconds": -1}}, ["inbox.settle_seconds = -1", "greater than or equal to 0"]),
        ({"inbox": {"sweep_seconds": "often"}}, ["inbox.sweep_seconds = 'often'", "'auto'"]),
        ({"inbox": {"on_success": "burn"}}, ["inbox.on_success = 'burn'", "archive", "keep", "delete"]),
        ({"model": {"threshold": 7}}, ["model.threshold = 7", "less than or equal to 1"]),
        ({"model": {"sa2va": {"decode": "guess"}}}, ["model.sa2va.decode = 'guess'", "verify", "forced"]),
        ({"outbox": {"outputs": ["picture"]}}, ["outbox.outputs", "'picture'", "mask", "overlay"]),
        ({"devices": {"use": "gpu"}}, ["devices.use = 'gpu'", "'auto'", "'cpu'"]),
        ({"profiles": {"a": {"folder": "../x"}}}, ["profiles.a.folder = '../x'", "below the inbox"]),
        ({"profiles": {"a": {"folder": "x", "treshold": 1}}}, ["profiles.a.treshold", "there is no such key"]),
        ({"profiles": {"a": {"folder": "x"}, "b": {"folder": "x/"}}}, ["profiles.b.folder", "profiles.a"]),
    ],
)
def test_a_mistake_is_named_with_key_value_and_what_is_allowed(
    tmp_path: Path, values: dict[str, Any], said: list[str]
) -> None:
    """An unknown key, a wrong type, an impossible value."""
    with pytest.raises(ConfigError) as caught:
        config.build(values, base=tmp_path)
    for words in said:
        assert words in str(caught.value)
    assert 78 == caught.value.exit_code


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Nobody wants to find them one by one."""
    with pytest.raises(ConfigError) as caught:
        build(tmp_path, inbox={"pth": 1, "settle_seconds": "x"}, model={"threshold": 2})
    assert 3 == len([line for line in str(caught.value).splitlines() if line.startswith("  ")])


@pytest.mark.parametrize("inner", ["outbox", "state"])
def test_folders_must_not_contain_one_another(tmp_path: Path, inner: str) -> None:
    """Results in the inbox would be taken for scans."""
    with pytest.raises(ConfigError, match="must be apart"):
        build(tmp_path, inbox={"path": "a"}, **{inner: {"path": "a/b"}})


def test_a_link_does_not_hide_that_folders_are_the_same(tmp_path: Path) -> None:
    """Links are followed before folders are compared."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(ConfigError, match="must be apart"):
        build(tmp_path, inbox={"path": "real"}, outbox={"path": "link/out"})


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WATCHERD_<SECTION>__<KEY>."""
    monkeypatch.setenv("WATCHERD_MODEL__THRESHOLD", "0.3")
    monkeypatch.setenv("WATCHERD_INBOX__PATH", "elsewhere")
    settings = build(tmp_path, model={"threshold": 0.9}, inbox={"settle_seconds": 1})
    assert (0.3, 1) == (settings.model.threshold, settings.inbox.settle_seconds)
    assert tmp_path / "elsewhere" == settings.inbox.path


def test_a_profile_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    """Scans under its folder, at any depth; the deepest matching folder wins."""
    settings = build(
        tmp_path,
        model={"threshold": 0.5, "segmenter": "sa2va"},
        profiles={
            "coronary": {"folder": "coronary", "threshold": 0.25},
            "left": {"folder": "coronary/left", "prompt": "left", "outputs": ["probability", "mask"]},
        },
    )
    inside = settings.options_for("coronary/a/b.png")
    deeper = settings.options_for("coronary/left/b.png")
    outside = settings.options_for("coronary.png")
    assert ("coronary", 0.25, "Please segment the blood vessel.") == (inside.profile, inside.threshold, inside.prompt)
    assert ("left", 0.5, "left", ("mask", "probability")) == (
        deeper.profile,
        deeper.threshold,
        deeper.prompt,
        deeper.outputs,
    )
    assert ("default", 0.5) == (outside.profile, outside.threshold)


def test_sam3_is_asked_in_words_by_profile_and_keeps_instances_apart_where_that_is_asked(tmp_path: Path) -> None:
    settings = build(
        tmp_path,
        model={"segmenter": "sam3", "sam3": {"prompt": "vein"}},
        profiles={"both": {"folder": "both", "prompt": "artery; vein", "instances": True}},
    )
    usual, both = settings.options_for("a.png"), settings.options_for("both/a.png")
    assert ("vein", "", False) == (usual.prompt, usual.draft, usual.instances)
    assert ("artery; vein", True) == (both.prompt, both.instances)
    everywhere = build(tmp_path, model={"segmenter": "sam3", "sam3": {"instances": True}})
    assert everywhere.options_for("a.png").instances
    assert not build(tmp_path, model={"sam3": {"instances": True}}).options_for("a.png").instances


def test_prompts_do_not_split_jobs_of_models_that_read_none(tmp_path: Path) -> None:
    """A segmenter without words has no prompt in its jobs' options."""
    assert "" == build(tmp_path, model={"segmenter": "vesselness"}).options_for("a.png").prompt


def test_a_file_that_is_not_toml_is_refused_with_the_place(tmp_path: Path) -> None:
    """And with a hint at the usual slip."""
    path = tmp_path / "config.toml"
    path.write_text("[inbox]\npath = inbox\n")
    with pytest.raises(ConfigError, match="line 2") as caught:
        config.load(path)
    assert "quotes" in caught.value.hint


def test_the_file_is_looked_for_in_the_documented_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--config, WATCHERD_CONFIG, ./config.toml."""
    for name in ("given.toml", "named.toml", "config.toml"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    assert tmp_path / "config.toml" == config.find(None)
    monkeypatch.setenv("WATCHERD_CONFIG", str(tmp_path / "named.toml"))
    assert tmp_path / "named.toml" == config.find(None)
    assert tmp_path / "given.toml" == config.find(tmp_path / "given.toml")


def test_a_missing_file_is_an_error_even_if_another_lies_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slip in --config must not start the service with other folders."""
    (tmp_path / "config.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        config.find(Path("nowhere.toml"))


def test_the_configuration_cannot_be_changed(tmp_path: Path) -> None:
    """It is read once."""
    with pytest.raises(ValueError, match="frozen"):
        build(tmp_path).inbox.settle_seconds = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("output", "library", "extra"), [("video", "PyAV", "video"), ("dicom-seg", "highdicom", "seg")]
)
def test_an_output_without_its_library_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, library: str, extra: str
) -> None:
    """Also in a profile; no scan would ever have it."""
    for sections in ({"outbox": {"outputs": [output]}}, {"profiles": {"x": {"folder": "x", "outputs": [output]}}}):
        build(tmp_path, **sections)
        with monkeypatch.context() as without:
            without.setattr("watcherd.config.toml_file.find_spec", lambda _: None)
            with pytest.raises(ConfigError, match=rf"\.outputs = \['{output}'\]: {output} needs {library}") as caught:
                build(tmp_path, **sections)
        assert f"watcherd[{extra}]" in caught.value.hint


def test_a_cluster_without_its_library_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it; and without a cluster nobody asks for the library."""
    monkeypatch.setattr("watcherd.config.toml_file.find_spec", lambda _: None)
    assert "" == build(tmp_path).cluster.engine
    with pytest.raises(ConfigError, match=r"cluster\.engine = 'ray' needs Ray, which is not installed") as caught:
        build(tmp_path, cluster={"engine": "ray"})
    assert 'pip install "watcherd[cluster]"' in caught.value.hint


@pytest.mark.parametrize("address", ["ray://a:1", "a", ":6380", "a:0", "a:b"])
def test_an_address_that_ray_would_not_find_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.address") as caught:
        build(tmp_path, cluster={"address": address})
    assert "10.0.0.1:6380" in str(caught.value)


def test_the_clusters_token_lies_in_the_state_folder_or_where_it_is_said(tmp_path: Path) -> None:
    assert tmp_path / "state" / "cluster.token" == build(tmp_path).cluster_token
    assert tmp_path / "t" == build(tmp_path, cluster={"token_file": "t"}).cluster_token
