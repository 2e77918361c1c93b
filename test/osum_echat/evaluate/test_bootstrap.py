"""Bootstrap intervals: coverage of a known truth, grouping, reproducibility."""

import numpy as np

from osum_echat.evaluate.bootstrap import group_utterances, interval, ratio, resample_sums


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        right = rng.random(200) < 0.7
        found = interval(np.stack([right, np.ones(200)], axis=1), ratio, [None] * 200, draws=300, seed=seed)
        hits += found.lo <= 0.7 <= found.hi
    assert 180 <= hits <= 199


def test_speakers_widen_the_interval_when_their_utterances_agree() -> None:
    right = np.repeat(np.arange(20) % 2, 10)  # a speaker is always right or always wrong
    features = np.stack([right, np.ones(200)], axis=1)
    alone = interval(features, ratio, [None] * 200)
    grouped = interval(features, ratio, [f"s{at // 10}" for at in range(200)])
    assert grouped.unit == "speaker" and grouped.num_groups == 20 and grouped.num == 200
    assert grouped.hi - grouped.lo > 2 * (alone.hi - alone.lo)


def test_unknown_speakers_stand_for_themselves_and_one_speaker_alone_is_not_resampled() -> None:
    groups, unit = group_utterances(["a", None, "a", None])
    assert unit == "speaker" and groups[0] == groups[2] and len(set(groups.tolist())) == 3
    assert group_utterances(["a", "a"])[1] == "utterance"
    assert group_utterances([None, None])[1] == "utterance"


def test_same_seed_same_draws_and_every_draw_has_as_many_groups() -> None:
    features = np.ones((7, 1))
    sums = resample_sums(features, np.arange(7), draws=50, seed=3)
    assert (sums == 7).all() and sums.shape == (50, 1)
    other = np.arange(7.0)[:, None]
    assert (resample_sums(other, np.arange(7), 50, 3) == resample_sums(other, np.arange(7), 50, 3)).all()
    assert (resample_sums(other, np.arange(7), 50, 3) != resample_sums(other, np.arange(7), 50, 4)).any()


def test_nothing_to_score_is_not_a_number() -> None:
    found = interval(np.zeros((0, 2)), ratio, [])
    assert np.isnan(found.value) and found.num == 0
