"""The best threshold, what it is worth, and how it gets into a configuration."""

from __future__ import annotations

import tomllib

import pytest

from watcherd.errors import ConfigError
from watcherd.evaluation.operating_point import choose, lines_for, put

THRESHOLDS = (0.2, 0.4, 0.6)


def test_the_best_mean_is_chosen_and_compared_with_the_one_in_use() -> None:
    scans = [(0.7, 0.8, 0.6), (0.6, 0.9, 0.7), (0.5, 0.6, 0.65)]
    found = choose(THRESHOLDS, scans, ["a", "b", "c"], "dice", 0.2)
    assert (0.4, pytest.approx(2.3 / 3)) == (found.best.threshold, found.best.mean)
    assert found.gain is not None
    assert (0.1 + 0.3 + 0.1) / 3 == pytest.approx(found.gain.mean)
    assert found.best.interval is not None


def test_of_distances_the_lowest_is_best_and_empty_masks_do_not_win() -> None:
    """At 0.6 one scan has no mask, and so no distance: the other's small one is no reason to choose it."""
    scans = [(4.0, 3.0, 1.0), (5.0, 4.0, None)]
    assert 0.4 == choose(THRESHOLDS, scans, ["a", "b"], "hd95", 0.2).best.threshold
    assert 0.6 == choose(THRESHOLDS, scans, ["a", "b"], "nsd", 0.2).points[2].threshold


def test_of_equal_thresholds_the_lowest_is_chosen() -> None:
    assert 0.2 == choose(THRESHOLDS, [(0.5, 0.5, 0.5)], ["a"], "dice", 0.2).best.threshold


def test_what_a_threshold_is_worth_elsewhere_is_judged_on_groups_that_had_no_say() -> None:
    """Each of two groups would choose what is bad for the other."""
    scans = [(0.9, 0.5, 0.1), (0.1, 0.5, 0.8)]
    found = choose(THRESHOLDS, scans, ["a", "b"], "dice", 0.4)
    assert pytest.approx((0.1 + 0.1) / 2) == found.elsewhere
    assert choose(THRESHOLDS, scans, ["a", "a"], "dice", 0.4).elsewhere is None


def test_a_figure_that_no_scan_has_is_an_error() -> None:
    with pytest.raises(ValueError, match="no scan has a hd95"):
        choose(THRESHOLDS, [(None, None, None)], ["a"], "hd95", 0.2)


@pytest.mark.parametrize(
    ("text", "profile", "changed"),
    [
        ("", None, "\n[model]\nthreshold = 0.25\n"),
        ("[model]\nthreshold = 0.5", None, "[model]\nthreshold = 0.25"),
        ("[model] # mine\n  threshold=0.5# so\n", None, "[model] # mine\n  threshold=0.25# so\n"),
        ("[inbox]\npath = 'a'", None, "[inbox]\npath = 'a'\n\n[model]\nthreshold = 0.25\n"),
        ("[model]\n[inbox]\n", None, "[model]\nthreshold = 0.25\n[inbox]\n"),
        ("[model.sa2va]\nframes = 1\n", None, "[model.sa2va]\nframes = 1\n\n[model]\nthreshold = 0.25\n"),
        (
            '[model]\nthreshold = 0.5\n[profiles."a b"]\nfolder = "x"\n',
            "a b",
            '[model]\nthreshold = 0.5\n[profiles."a b"]\nthreshold = 0.25\nfolder = "x"\n',
        ),
        (
            "[profiles.a]\r\nfolder='x'\r\nthreshold = 0.5\r\n",
            "a",
            "[profiles.a]\r\nfolder='x'\r\nthreshold = 0.25\r\n",
        ),
    ],
)
def test_one_value_is_changed_and_nothing_else(text: str, profile: str | None, changed: str) -> None:
    assert changed == put(text, profile, 0.25)


@pytest.mark.parametrize(
    ("text", "profile"),
    [
        ("model = { threshold = 0.5 }\n", None),
        ("model.threshold = 0.5\n", None),
        ("[profiles]\na = { folder = 'x' }\n", "a"),
        ('[model]\npath = """\nthreshold = 0.5\n"""\n', None),
    ],
)
def test_what_is_written_in_another_way_is_left_alone(text: str, profile: str | None) -> None:
    """And the lines to write by hand are said."""
    with pytest.raises(ConfigError, match="not changed by a program") as caught:
        put(text, profile, 0.25)
    assert lines_for(profile, 0.25) in caught.value.hint


def test_the_lines_to_paste_are_toml() -> None:
    for profile in ("retina", "a b", 'a"b\\'):
        assert {"profiles": {profile: {"threshold": 0.25}}} == tomllib.loads(lines_for(profile, 0.25))
    assert {"model": {"threshold": 0.3}} == tomllib.loads(lines_for(None, 0.3))
