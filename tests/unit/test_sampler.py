"""Clips are drawn as often as their weights ask for."""

from collections import Counter

import numpy as np
import pytest

from wavtokenizer_hf.training.sampler import Draw, EpochSampler


def drawn(sampler: EpochSampler, epoch: int = 0) -> list[Draw]:
    sampler.set_epoch(epoch)
    return [draw for batch in sampler for draw in batch]


def test_weights_set_how_often_a_clip_is_drawn_in_every_epoch_and_exactly_on_average():
    weights = np.array([0.0, 1.0, 2.0, 0.5, 4.5])
    due = 5 * weights / weights.sum()
    sampler = EpochSampler(5, 1, seed=0, weights=weights)
    totals = np.zeros(5)
    for epoch in range(400):
        counts = Counter(draw.clip for draw in drawn(sampler, epoch))
        found = np.array([counts[index] for index in range(5)])
        assert (np.floor(due) <= found).all()
        assert (found <= np.ceil(due)).all()
        totals += found
    np.testing.assert_allclose(totals / 400, due, atol=0.08)


def test_repeated_draws_of_a_clip_are_told_apart():
    draws = drawn(EpochSampler(3, 1, seed=0, weights=[8.0, 1.0, 0.0]))
    assert len(draws) == len(set(draws)) == 3
    assert {draw.take for draw in draws if draw.clip == 0} >= {0, 1}


def test_a_set_that_is_smaller_than_a_batch_is_repeated_until_it_fills_one():
    (batch,) = EpochSampler(3, 8, seed=0)
    assert sorted(Counter(draw.clip for draw in batch).values()) == [2, 3, 3]
    assert len(set(batch)) == 8


def test_epochs_and_seeds_are_shuffled_differently():
    orders = [
        [draw.clip for draw in drawn(EpochSampler(50, 1, seed=seed), epoch)]
        for seed, epoch in [(0, 0), (0, 1), (1, 0), (0, 0)]
    ]
    assert orders[0] == orders[3]
    assert all(orders[0] != other for other in orders[1:3])
    assert sorted(orders[0]) == list(range(50))
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_items": 0}, "got 0 clips"),
        ({"batch_size": 0}, "batches of 0"),
        ({"process_index": 2}, "process 2 of 2"),
        ({"weights": [1.0]}, "expected 4 weights"),
        ({"weights": [1.0, 1.0, -1.0, 1.0]}, "0 or more"),
        ({"weights": [0.0] * 4}, "not all 0"),
        ({"weights": [np.nan] * 4}, "0 or more"),
    ],
)
def test_what_can_not_be_shared_out_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EpochSampler(**{"num_items": 4, "batch_size": 1, "seed": 0, "num_processes": 2} | arguments)
