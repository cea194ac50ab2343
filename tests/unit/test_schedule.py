"""Settings that move over a run."""

import re

import pytest

from wavtokenizer_hf.training.schedule import checked_schedule, value_at


@pytest.mark.parametrize("step", [0, 5, 10**6])
def test_a_number_stays(step):
    assert value_at(checked_schedule("share", 0.5), step) == 0.5


def test_between_points_a_setting_moves_in_straight_lines_and_outside_it_stays():
    schedule = checked_schedule("share", [[10, 1], [20, 0], [30, 0.5]])
    assert [value_at(schedule, step) for step in (0, 10, 15, 20, 24, 30, 99)] == [1, 1, 0.5, 0, 0.2, 0.5, 0.5]


def test_two_points_at_one_step_are_a_jump():
    schedule = checked_schedule("share", [[10, 1], [10, 0]])
    assert [value_at(schedule, step) for step in (9, 11)] == [1, 0]


@pytest.mark.parametrize("value", ["much", None, [], [1, 2], [[1, 2, 3]], [[1], [2]], [[5, 0], [4, 1]], [[0, "x"]]])
def test_what_is_no_schedule_is_named(value):
    with pytest.raises(ValueError, match="`share` must be a number, or points"):
        checked_schedule("share", value)


@pytest.mark.parametrize("value", [1.5, -0.1, [[0, 0], [5, 2]]])
def test_values_outside_the_bounds_are_named(value):
    with pytest.raises(ValueError, match=re.escape(f"`share` must lie from 0 to 1, got {value!r}")):
        checked_schedule("share", value, low=0, high=1)
