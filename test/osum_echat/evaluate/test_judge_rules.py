"""Words in replies: whole words, phrases, Chinese, forbidden words, keywords of events."""

import pytest

from osum_echat.evaluate.judge import judge_by_rules
from osum_echat.evaluate.judge_items import EchatItem
from osum_echat.evaluate.judge_prompts import load_judge_prompts
from osum_echat.evaluate.judge_rules import first_match, is_appropriate
from osum_echat.text.tags import values


@pytest.mark.parametrize(
    ("text", "phrase", "occurs"),
    [
        ("A SAD day", "sad", True),
        ("a saddle", "sad", False),
        ("crusade", "sad", False),
        ("ill, I said", "ill", True),
        ("I'll go", "ill", False),
        ("we will", "ill", False),
        ("I can't", "can", False),
        ("I can’t", "can", False),
        ("the girl's bag", "girl", True),
        ("well-being", "well", True),
        ("little   one", "little one", True),
        ("little ones", "little one", False),
        ("so little, one thinks", "little one", False),
        ("我听到你在哭泣", "哭", True),
        ("感冒了要多喝水", "感冒", True),
        ("今天天气很好", "感冒", False),
        ("K感冒x", "感冒", True),
        ("穿cold天", "cold", True),  # Chinese on both sides is no letter of the word
        ("<SAD> oh dear", "sad", False),  # a tag is nothing that is said
        ("ＣＯＵＧＨ", "cough", True),  # full width
    ],
)
def test_whole_words_and_chinese_anywhere(text: str, phrase: str, occurs: bool) -> None:
    assert (first_match(text, [phrase]) is not None) is occurs


def test_empty_phrases_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing to look for"):
        first_match("text", ["  "])


def test_every_group_and_no_forbidden_word() -> None:
    expect = [["cough", "咳嗽"], ["water", "tea"]]
    assert is_appropriate("Have some tea for that cough.", expect)
    assert not is_appropriate("Have some tea.", expect)
    assert not is_appropriate("Have some tea for that cough, funny man.", expect, ["funny"])
    assert is_appropriate("Have some tea for that cough, that is unfunny.", expect, ["funny"])
    assert first_match("tea or water", expect[1]) == "water"


def event_item(event: str) -> EchatItem:
    return EchatItem("k", "event", "q", {"event": event})


EVENTS = {
    "sigh": ("Why do you sigh?", "你怎么叹气了", "As an AI I cannot tell."),
    "cry": ("Please do not cry.", "别哭了", "A crystal clear day."),
    "scream": ("You screamed!", "别大叫", "Ice is cold."),
    "laugh": ("I like your laughter.", "你笑得真好听", "别开玩笑"),
    "throat_clearing": ("You cleared your throat.", "你在清嗓子", "A clear sky."),
    "cough": ("You are coughing.", "你咳嗽了", "I will go."),
    "sneeze": ("Do you have a cold?", "打喷嚏了", "Coldplay is a band."),
}


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_is_named_in_both_languages(event: str) -> None:
    english, chinese, other = EVENTS[event]
    points = [judge_by_rules([event_item(event)], {"k": reply}).verdicts[0].points for reply in (english, chinese, other, "")]
    assert points == [100.0, 100.0, 0.0, 0.0]


def test_keywords_are_total_over_the_events_of_the_paper() -> None:
    assert set(load_judge_prompts().events) == set(EVENTS) == set(values("event")) - {"other", "none"}
