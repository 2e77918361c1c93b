"""Labels: aliases, rendering and parsing as inverses, tolerance, word times."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osum_echat.errors import DataError
from osum_echat.text import tags

MANIFEST = Path(__file__).parents[4] / "shared" / "data" / "manifest.jsonl"
label_sets = st.fixed_dictionaries({}, optional={kind: st.sampled_from(tags.values(kind)) for kind in tags.KINDS})
words = st.lists(
    st.tuples(st.text("abc é你好'", min_size=1, max_size=5).filter(str.strip), st.integers(0, 600), st.integers(0, 60)), max_size=8
)


def test_order_and_distinct_spelling():
    assert tags.KINDS == ("age", "gender", "event", "emotion", "style")
    assert len(set(tags.ALL_TAGS)) == len(tags.ALL_TAGS) == sum(len(tags.values(kind)) for kind in tags.KINDS) + 1
    labels = {"emotion": "other", "event": "none", "gender": "male", "age": "old"}
    assert tags.render_labels(labels) == "<OLD><MALE><NO_EVENT><OTHER_EMOTION>"
    assert tags.tag_text("event", "other") != tags.tag_text("emotion", "other")


@given(labels=label_sets, transcript=st.text("ab 你,.'", max_size=12))
def test_parse_is_the_inverse_of_render(labels, transcript):
    assert tags.parse_labels(transcript + tags.render_labels(labels)) == (transcript.strip(), labels)
    assert tags.parse_labels(tags.render_labels(labels).lower()) == ("", labels)


@given(text=st.text("<>HAPYSD unk/&_ 你\0", max_size=40))
def test_parse_never_fails_and_is_stable(text):
    transcript, labels = tags.parse_labels(text)
    assert set(labels) <= set(tags.KINDS)
    if "<" not in text:
        assert (transcript, labels) == (text.strip(), {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello<HAPPY>", ("hello", {"emotion": "happy"})),
        ("hello <laugh> world", ("hello world", {"event": "laugh"})),
        ("a <LAUGH> <SAD> b", ("a b", {"event": "laugh", "emotion": "sad"})),
        ("a<SAD><HAPPY>", ("a", {"emotion": "sad"})),
        ("two  spaces", ("two  spaces", {})),
        ("x<FOO><HAPPY", ("x<FOO><HAPPY", {})),
        ("x<UNK><&&>", ("x", {})),
        ("x<OTHER>", ("x", {})),
        ("x<OTHER_EVENT>", ("x", {"event": "other"})),
        ("<童话故事>", ("", {"style": "fairy_tale"})),
    ],
)
def test_parse_examples(text, expected):
    assert tags.parse_labels(text) == expected


def test_an_ambiguous_tag_needs_a_single_open_kind():
    assert tags.parse_labels("x<OTHER>", ["emotion"]) == ("x", {"emotion": "other"})
    assert tags.parse_labels("x<OTHER><SAD>", ["emotion", "event"]) == ("x", {"emotion": "sad", "event": "other"})
    assert tags.parse_labels("x<OTHER>", ["emotion", "event"]) == ("x", {})
    assert tags.parse_labels("x<SAD><MALE>", ["gender"]) == ("x", {"gender": "male"})


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("emotion", "Happiness", "happy"),
        ("emotion", "ANGER", "angry"),
        ("emotion", "<HAPPY>", "happy"),
        ("emotion", "surprise-positive", "surprise"),
        ("emotion", "悲伤", "sad"),
        ("emotion", "boredom", "other"),
        ("event", "crying_baby", "cry"),
        ("event", "throat clearing", "throat_clearing"),
        ("event", "screaming", "scream"),
        ("event", "none", "none"),
        ("event", "dog_bark", "other"),
        ("age", "teen", "adult"),
        ("age", "infant", "child"),
        ("age", "MIDDLE_AGE", "adult"),
        ("age", "71.5", "old"),
        ("gender", "F", "female"),
        ("style", "诗歌", "poetry"),
        ("style", "口语", "conversation"),
    ],
)
def test_aliases(kind, value, expected):
    assert tags.canonical(kind, value) == expected


def test_every_value_and_spelling_is_its_own_alias():
    for kind in tags.KINDS:
        for value in tags.values(kind):
            assert tags.canonical(kind, value) == tags.canonical(kind, tags.tag_text(kind, value)) == value


def test_unknown_labels_name_the_nearest():
    with pytest.raises(DataError, match=r"emotion 'hapy'; nearest is 'happy'") as caught:
        tags.canonical("emotion", "hapy")
    assert caught.value.reason == "unknown_label"
    with pytest.raises(DataError, match="known are male, female"):
        tags.canonical("gender", "42")


@pytest.mark.parametrize(("years", "group"), [(0, "child"), (12.9, "child"), (13, "adult"), (59.9, "adult"), (60, "old"), (100, "old")])
def test_age_from_years(years, group):
    assert tags.age_from_years(years) == group


@pytest.mark.parametrize("years", [-1, 1999, float("nan")])
def test_impossible_ages(years):
    with pytest.raises(DataError, match="plausible"):
        tags.age_from_years(years)


def test_missing():
    assert tags.is_missing("emotion", None) and tags.is_missing("emotion", " NULL ") and tags.is_missing("age", "none")
    assert not tags.is_missing("event", "none") and not tags.is_missing("emotion", "neutral")


@settings(max_examples=100)
@given(words=words)
def test_word_times_round_trip(words):
    timed = [(" ".join(word.split()), start / 10, (start + length) / 10) for word, start, length in words]
    assert tags.parse_words(tags.render_words(timed)) == timed


def test_word_times_examples():
    assert tags.render_words([("hello", 0.32, 0.7), ("world", 0.8, 1.16)]) == "<0.3>hello<0.7><0.8>world<1.2>"
    assert tags.parse_words("<0.3>hello<0.7><0.8>wor") == [("hello", 0.3, 0.7)]
    assert tags.parse_words("<0.3>a<0.7>b<1.0>") == [("a", 0.3, 0.7), ("b", 0.7, 1.0)]
    assert tags.parse_words("no times <HAPPY>") == []
    for bad in [("", 0, 1), ("a<b", 0, 1), ("a", 1, 0.5), ("a", float("nan"), 1)]:
        with pytest.raises(DataError) as caught:
            tags.render_words([bad])
        assert caught.value.reason == "bad_words"


def test_join_and_split():
    assert tags.join_words(["hello", "world"]) == "hello world"
    assert tags.join_words(["你", "好", "world"]) == "你好 world"
    assert tags.split_reply("hi<开始回答>hello you") == ("hi", "hello you")
    assert tags.split_reply("hi") == ("hi", None)


@pytest.mark.skipif(not MANIFEST.exists(), reason="shared/data is not here")
def test_every_label_of_the_real_recordings_is_known():
    rows = [json.loads(line) for line in MANIFEST.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        for kind in ("gender", "emotion", "event"):
            if row.get(kind) is not None:
                assert tags.canonical(kind, row[kind]) in tags.values(kind)
        for age in (row.get("age"), row.get("age_group")):
            if age is not None:
                assert tags.canonical("age", str(age)) in tags.values("age")
