"""The display of steps: on a terminal, in a log, and silent. No test sleeps: the clock is the test's."""

from __future__ import annotations

import io

import pytest

from loop import console
from loop.console import LINE_EVERY_S, duration_text, show_steps, text_console


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def plain_lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (4.23, "4.2 s"),
        (9.97, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (4020, "1 h 07 min"),
    ],
)
def test_durations_are_short_and_readable(seconds: float, text: str):
    assert duration_text(seconds) == text


def test_in_a_log_a_step_is_a_line_at_its_beginning_and_one_at_its_end():
    out, clock = io.StringIO(), Clock()
    with show_steps(stream=out, now_s=clock) as stage:
        stage("train")
        clock.now_s += 42
        stage("evaluate")
        clock.now_s += 3.5
    assert plain_lines(out) == [
        "begin   train",
        "done    train (42 s)",
        "begin   evaluate",
        "done    evaluate (3.5 s)",
    ]


def test_in_a_log_progress_comes_at_most_every_half_minute():
    out, clock = io.StringIO(), Clock()
    with show_steps(stream=out, now_s=clock) as stage:
        report = stage("train")
        for done in range(1, 121):  # one report a second, for two minutes
            clock.now_s += 1
            report("training", done, 240)
    between = plain_lines(out)[1:-1]
    assert len(between) == 120 // LINE_EVERY_S
    assert between[0] == "        train: training 30/240 (30 s, 3 min 30 s left)"


def test_the_time_left_follows_the_present_phase_and_not_the_ones_before():
    out, clock = io.StringIO(), Clock()
    with show_steps(stream=out, now_s=clock) as stage:
        report = stage("evaluate")
        report("answering", 0, 10)
        clock.now_s += 100
        report("answering", 10, 10)  # ten seconds an item
        report("scoring", 0, 100)
        clock.now_s += 40
        report("scoring", 80, 100)  # half a second an item
    assert any(line.endswith("evaluate: scoring 80/100 (2 min 20 s, 10 s left)") for line in plain_lines(out))


def test_nothing_is_said_of_the_time_left_before_it_can_be_known():
    out, clock = io.StringIO(), Clock()
    with show_steps(stream=out, now_s=clock) as stage:
        report = stage("train")
        clock.now_s += 60
        report("training", 0, 240)
    assert plain_lines(out)[1] == "        train: training 0/240 (1 min 00 s)"


@pytest.mark.parametrize("is_live", [False, True])
@pytest.mark.parametrize(("error", "word"), [(RuntimeError("x"), "failed"), (KeyboardInterrupt(), "stopped")])
def test_a_step_that_an_exception_ends_is_not_done(is_live: bool, error: BaseException, word: str):
    out = io.StringIO()
    with pytest.raises(type(error)), show_steps(stream=out, is_live=is_live) as stage:
        stage("train")
        raise error
    assert word in out.getvalue() and "done" not in out.getvalue() and "✓" not in out.getvalue()


@pytest.mark.parametrize("is_live", [False, True])
def test_a_late_report_of_an_ended_step_changes_nothing(is_live: bool):
    out, clock = io.StringIO(), Clock()
    with show_steps(stream=out, is_live=is_live, now_s=clock) as stage:
        late = stage("first")
        stage("second")
        clock.now_s += 60
        late("first again", 1, 2)
    assert "first again" not in out.getvalue()


def test_on_a_terminal_finished_steps_stay_with_their_duration():
    out, clock = io.StringIO(), Clock()
    with show_steps(stream=out, is_live=True, now_s=clock) as stage:
        report = stage("train")
        report("training", 3, 12)
        clock.now_s += 65
        stage("evaluate")
        clock.now_s += 2
    shown = out.getvalue()
    assert shown.index("✓ train  1 min 05 s") < shown.index("✓ evaluate  2 s")


def test_quiet_shows_nothing():
    out = io.StringIO()
    with show_steps(quiet=True, stream=out) as stage:
        stage("train")("training", 1, 2)
    assert out.getvalue() == ""


def test_a_stream_that_is_no_terminal_gets_lines():
    out = io.StringIO()
    with show_steps(stream=out) as stage:
        stage("train")
    assert "\x1b" not in out.getvalue() and "begin" in out.getvalue()


def test_a_display_that_leaves_something_unshown_cannot_be_made():
    class Half(console._Steps):
        def _show_begin(self, step: console._Step) -> None:
            return None

    with pytest.raises(TypeError, match="_show_end"):
        Half(io.StringIO(), Clock())


def test_a_console_takes_no_text_for_markup():
    out = io.StringIO()
    text_console(out).print("[bold red]x[/] :smile:")
    assert out.getvalue() == "[bold red]x[/] :smile:\n"
