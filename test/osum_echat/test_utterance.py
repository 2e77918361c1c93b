"""Reading and writing list lines in the three dialects."""

import json
from dataclasses import replace

import pytest

from osum_echat.errors import DataError
from osum_echat.utterance import Turn, Utterance


def test_round_trip_keeps_every_field() -> None:
    full = Utterance(
        key="u1",
        task="asr_p",
        wav="a.wav",
        txt="hello 你好",
        start=0.5,
        end=2.25,
        lang="en",
        speaker="s",
        gender="male",
        age_years=34.0,
        emotion="happy",
        event="cough",
        style="read",
        question="q",
        think="t",
        words=(("hello", 0.1, 0.4),),
        history=(
            Turn("user", wav="h.wav", txt="oh", gender="female", age_years=7.0, emotion="sad", event="cry", think="tired"),
            Turn("assistant", txt="yes", speech_token=(1, 2)),
            Turn("user", age="OLD"),
            Turn("assistant", txt="no"),
        ),
        answer_wav="b.wav",
        speech_token=(3, 4),
        extra={"note": [1]},
    )
    assert Utterance.from_json(full.to_json()) == full


def test_age_is_years_or_a_label() -> None:
    assert Utterance.from_json('{"key": "a", "age": 7}').age_years == 7.0
    assert Utterance.from_json('{"key": "a", "age": "61"}').age_years == 61.0
    labelled = Utterance.from_json('{"key": "a", "age": "CHILD"}')
    assert (labelled.age, labelled.age_years) == ("CHILD", None)


def test_wenet_line() -> None:
    assert Utterance.from_json('{"key": "BAC", "wav": "/a/b.wav", "txt": "甚至"}') == Utterance("BAC", "asr", "/a/b.wav", "甚至")


@pytest.mark.parametrize("as_text", [False, True])
def test_osum_line_lifts_extra_given_as_object_or_as_text(as_text: bool) -> None:
    extra = {"speech_token": [5, 6], "think_str": "hm", "question": "why", "gender": "FEMALE", "dataset": "d"}
    line = {"key": "u", "wav": "a.wav", "txt": "hi<HAPPY>", "task": "<TRANSCRIBE> <EMOTION>"}
    line["extra"] = json.dumps(extra) if as_text else extra  # type: ignore[assignment]
    utterance = Utterance.from_json(json.dumps(line))
    assert (utterance.task, utterance.txt) == ("<TRANSCRIBE> <EMOTION>", "hi<HAPPY>")
    assert (utterance.speech_token, utterance.think, utterance.question, utterance.gender) == ((5, 6), "hm", "why", "FEMALE")
    assert utterance.extra == {"dataset": "d"}


def test_unknown_fields_travel_in_extra_and_nulls_vanish() -> None:
    utterance = Utterance.from_json('{"key": 17, "licence": "MIT", "emotion": null, "txt": 5}')
    assert (utterance.key, utterance.txt, utterance.emotion, utterance.extra) == ("17", "5", None, {"licence": "MIT"})


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('{"key": "a"', "not JSON"),
        ("[1]", "object"),
        ('{"wav": "a.wav"}', "'key'"),
        ('{"key": "a", "start": "soon"}', "wrong type"),
        ('{"key": "a", "txt": ["b"]}', "'txt'"),
        ('{"key": "a", "speech_token": "12"}', "speech_token"),
        ('{"key": "a", "extra": "{"}', "extra"),
        ('{"key": "a", "history": [{"txt": "x"}]}', "role"),
    ],
)
def test_broken_lines_name_the_place(line: str, part: str) -> None:
    with pytest.raises(DataError, match=r"data\.list:7") as caught:
        Utterance.from_json(line, "data.list:7")
    assert caught.value.reason == "bad_json"
    assert part in str(caught.value)


def test_decoded_audio_does_not_travel() -> None:
    utterance = replace(Utterance("a"), audio=b"xx", origin="f:1")
    assert json.loads(utterance.to_json()) == {"key": "a", "task": "asr"}
