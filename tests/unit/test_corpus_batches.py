"""Which clips go through the model together."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from wavtokenizer_hf.corpus.batches import BATCHES_IN_POOL, batches, pools

lengths = st.lists(st.integers(1, 300), max_size=60)


@given(lengths, st.integers(1, 400))
def test_every_clip_is_in_one_batch_which_stays_within_its_budget(lengths, budget):
    pool = list(enumerate(lengths))
    made = list(batches(pool, budget))
    assert sorted(itertools.chain(*made)) == pool
    for batch in made:
        padded = len(batch) * max(length for _, length in batch)
        assert padded <= budget or len(batch) == 1


@given(lengths, st.integers(1, 400))
def test_batches_go_down_in_length_and_none_could_join_the_next(lengths, budget):
    made = list(batches(list(enumerate(lengths)), budget))
    in_order = [length for batch in made for _, length in batch]
    assert in_order == sorted(lengths, reverse=True)
    for batch in made[:-1]:
        assert (len(batch) + 1) * batch[0][1] > budget


@given(lengths, st.integers(1, 400))
def test_windows_keep_the_order_and_end_once_they_hold_enough(lengths, budget):
    clips = list(enumerate(lengths))
    made = list(pools(iter(clips), budget))
    assert list(itertools.chain(*made)) == clips
    enough = BATCHES_IN_POOL * budget
    for pool in made[:-1]:
        assert sum(length for _, length in pool) >= enough
    for pool in made:
        assert sum(length for _, length in pool[:-1]) < enough


def test_clips_of_like_length_share_a_batch():
    pool = [("a", 100), ("b", 10), ("c", 99), ("d", 11), ("e", 10)]
    names = [[name for name, _ in batch] for batch in batches(pool, 200)]
    assert names == [["a", "c"], ["d", "b", "e"]]
