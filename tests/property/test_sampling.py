"""Any set of clips is shared out among any processes, and an epoch goes on from anywhere."""

from hypothesis import given, settings
from hypothesis import strategies as st

from wavtokenizer_hf.training.sampler import EpochSampler

counts = st.integers(1, 40)
batch_sizes = st.integers(1, 7)
processes = st.integers(1, 4)
epochs = st.integers(0, 2**31)
seeds = st.integers(0, 2**64)


def epoch_of(epoch: int, start_batch: int = 0, **arguments) -> list:
    sampler = EpochSampler(**arguments)
    sampler.set_epoch(epoch, start_batch)
    return list(sampler)


@settings(deadline=None)
@given(counts, batch_sizes, processes, seeds, epochs)
def test_processes_share_an_epoch_without_overlap_and_draw_what_one_alone_would(items, size, num, seed, epoch):
    shards = [
        epoch_of(epoch, num_items=items, batch_size=size, seed=seed, num_processes=num, process_index=index)
        for index in range(num)
    ]
    steps = [[draw for batch in step for draw in batch] for step in zip(*shards, strict=True)]
    assert steps == epoch_of(epoch, num_items=items, batch_size=size * num, seed=seed)
    draws = [draw for step in steps for draw in step]
    assert len(set(draws)) == len(draws) == max(items // (size * num), 1) * size * num
    assert {draw.epoch for draw in draws} == {epoch}
    if items >= size * num:
        assert {draw.take for draw in draws} == {0}


@settings(deadline=None)
@given(counts, batch_sizes, st.lists(st.floats(0, 10), min_size=40, max_size=40), seeds, epochs, st.data())
def test_an_epoch_goes_on_from_any_batch_as_if_it_had_not_stopped(items, size, weights, seed, epoch, data):
    weights[0] += 1.0
    arguments = {"num_items": items, "batch_size": size, "seed": seed, "weights": weights[:items]}
    whole = epoch_of(epoch, **arguments)
    assert len(whole) == len(EpochSampler(**arguments))
    start = data.draw(st.integers(0, len(whole)))
    assert epoch_of(epoch, start, **arguments) == whole[start:]
    draws = [draw for batch in whole for draw in batch]
    assert len(set(draws)) == len(draws)
