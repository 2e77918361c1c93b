"""What a voice tells besides its words: label inventories, the aliases of other corpora, and their spelling in text.

A label is (kind, value), such as ("emotion", "happy"), and is written `<HAPPY>`. All spellings differ across kinds: `other` is written
`<OTHER_EMOTION>`, `<OTHER_EVENT>` or `<OTHER_STYLE>`, the event `none` (nothing but speech) `<NO_EVENT>`, so a rendered label always parses
back to itself. Inventories: OSUM (arXiv:2501.13306) and OSUM-EChat (arXiv:2508.09600, appendix A.2). Also here, because they share the
angle brackets: word times (`<0.3>hello<0.7>`) and the mark between transcript and reply. Leaves out: `<think>` blocks (text/think.py).
"""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping

from osum_echat.errors import DataError

UNKNOWN = "unk"  # a label nobody knows, where the layout wants one all the same
ANSWER_MARK = "<开始回答>"  # between transcript and reply of the task sttc, as in OSUM's lists

# Labels are always written in the order of this table; spelling = value in upper case unless a pair says otherwise.
_INVENTORY: dict[str, dict[str, str]] = {
    "age": {"child": "CHILD", "adult": "ADULT", "old": "OLD"},
    "gender": {"male": "MALE", "female": "FEMALE"},
    "event": {
        "laugh": "LAUGH",
        "cough": "COUGH",
        "cry": "CRY",
        "scream": "SCREAM",
        "sigh": "SIGH",
        "throat_clearing": "THROAT_CLEARING",
        "sneeze": "SNEEZE",
        "other": "OTHER_EVENT",
        "none": "NO_EVENT",
    },
    "emotion": {
        "happy": "HAPPY",
        "sad": "SAD",
        "angry": "ANGRY",
        "fear": "FEAR",
        "disgust": "DISGUST",
        "surprise": "SURPRISE",
        "neutral": "NEUTRAL",
        "other": "OTHER_EMOTION",
    },
    "style": {
        "news": "NEWS",
        "horror_story": "HORROR_STORY",
        "fairy_tale": "FAIRY_TALE",
        "customer_service": "CUSTOMER_SERVICE",
        "poetry": "POETRY",
        "audiobook": "AUDIOBOOK",
        "conversation": "CONVERSATION",
        "other": "OTHER_STYLE",
    },
}
KINDS = tuple(_INVENTORY)

# Other corpora's words. An alias maps to the value whose definition covers it; shades without a counterpart map to `other`.
_ALIASES: dict[str, dict[str, str]] = {
    "age": {
        "child": "infant baby toddler kid children kids 儿童 小孩 孩子 婴儿",
        "adult": "teen teens teenager youth young young_adult middle middle_age middle_aged adults twenties thirties forties fourties"
        " fifties 青年 青少年 中年 成人 成年 成年人",
        "old": "elderly senior elder aged sixties seventies eighties nineties 老年 老人 老年人",
    },
    "gender": {"male": "m man boy men 男 男性 男声", "female": "f woman girl women 女 女性 女声"},
    "event": {
        "laugh": "laughter laughing laughs chuckle giggle 笑 笑声 大笑",
        "cough": "coughing coughs cough_heavy cough_shallow 咳嗽 咳嗽声",
        "cry": "crying cries crying_baby baby_cry sob sobbing weeping 哭 哭声 哭泣",
        "scream": "screaming screams shout shouting yell 尖叫 尖叫声",
        "sigh": "sighing sighs 叹气 叹息 叹气声",
        "throat_clearing": "throatclearing clear_throat clearing_throat throat 清嗓子 清嗓",
        "sneeze": "sneezing sneezes 喷嚏 打喷嚏",
        "other": "other_event vocal_burst breathing breath breathing_deep breathing_shallow snore snoring sniff yawn applause clapping"
        " cheering footsteps dog_bark dog rooster rain thunder thunderstorm sea_waves"
        " fire_crackling crackling_fire helicopter chainsaw clock_tick"
        " keyboard_typing music noise 其他 其它",
        "none": "no_event no_sound_event speech silence 无 无事件",
    },
    "emotion": {
        "happy": "happiness joy joyful amusement amused elation excited excitement contentment content ecstasy triumph cheerful delight"
        " 开心 高兴 快乐 喜悦 愉悦",
        "sad": "sadness sorrow grief disappointment disappointed 悲伤 伤心 难过 哭腔",
        "angry": "anger mad rage annoyed annoyance irritated 愤怒 生气",
        "fear": "fearful afraid scared terror anxious anxiety 害怕 恐惧",
        "disgust": "disgusted 厌恶",
        "surprise": "surprised surprise_positive surprise_negative astonishment 惊讶 惊喜 吃惊",
        "neutral": "calm normal serenity 中立 中性 平静",
        "other": "other_emotion boredom bored interest distress relief confusion confused shame desire realization guilt awe contempt"
        " sympathy adoration pain embarrassment embarrassed romantic_love pride sarcasm curious worried shy sorry 抱歉 安慰鼓励 其他 其它",
    },
    "style": {
        "news": "news_and_science science 新闻科普 新闻 科普 科普百科 朗读",
        "horror_story": "horror 恐怖故事 悬疑恐怖",
        "fairy_tale": "fairytale 童话故事 童话",
        "customer_service": "service 客服",
        "poetry": "poem poetry_and_prose prose 诗歌散文 诗歌 散文",
        "audiobook": "audio_book novel 有声书 小说 武侠评书 历史 科幻",
        "conversation": "daily_conversation casual chat dialogue 日常口语 口语 对话",
        "other": "other_style humour humor 其他 其它 幽默",
    },
}
_MISSING = {"", "null", "nan", "n/a", "unknown", "&&", UNKNOWN}
_CHILD_BELOW_YEARS, _OLD_FROM_YEARS = 13, 60

_TAG = re.compile(r"<\s*([^<>]+?)\s*>")
_TAG_AS_WRITTEN = re.compile(r"(<[^<>]+>)")
_HOLE = "\0"  # stands for a removed tag for a moment
_TIMED_WORD = re.compile(r"<\s*(\d+(?:\.\d+)?)\s*>([^<>]*)(?=<\s*(\d+(?:\.\d+)?)\s*>)")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def _build_lookup() -> dict[str, dict[str, str]]:
    """kind -> every accepted spelling, simplified -> value; one spelling with two meanings within a kind is a mistake above."""
    lookup: dict[str, dict[str, str]] = {}
    for kind, spellings in _INVENTORY.items():
        table = lookup[kind] = {}
        for value, spelling in spellings.items():
            for name in (value, spelling, *_ALIASES[kind].get(value, "").split()):
                if table.setdefault(_simplify(name), value) != value:
                    raise ValueError(f"{kind} alias {name!r} means both {table[_simplify(name)]!r} and {value!r}")
    return lookup


def _simplify(name: str) -> str:
    return re.sub(r"[\s\-_]+", "_", name.strip().strip("<>").strip()).lower()


_LOOKUP = _build_lookup()
UNKNOWN_TAG = f"<{UNKNOWN.upper()}>"


def values(kind: str) -> tuple[str, ...]:
    """The inventory of one kind, in the order of confusion matrices and prompts."""
    return tuple(_INVENTORY[kind])


def tag_text(kind: str, value: str) -> str:
    """How a canonical value (or UNKNOWN) is written: ("event", "none") -> "<NO_EVENT>"."""
    return UNKNOWN_TAG if value == UNKNOWN else f"<{_INVENTORY[kind][value]}>"


def tag_texts(kind: str) -> tuple[str, ...]:
    """All tags of one kind."""
    return tuple(tag_text(kind, value) for value in _INVENTORY[kind])


ALL_TAGS: list[str] = [*(tag for kind in KINDS for tag in tag_texts(kind)), UNKNOWN_TAG]


def is_missing(kind: str, value: str | None) -> bool:
    """True for a field nobody filled in: None, "", "null", "unknown" ..., and "none" for every kind but the event, where it is a value."""
    if value is None or _simplify(value) in _MISSING:
        return True
    return _simplify(value) == "none" and "none" not in _INVENTORY[kind]


def age_from_years(years: float) -> str:
    """child below 13 years, old from 60 on."""
    if not 0 <= years <= 130:
        raise DataError(f"an age of {years} years is not plausible (0 to 130 expected)", "unknown_label")
    if years < _CHILD_BELOW_YEARS:
        return "child"
    return "adult" if years < _OLD_FROM_YEARS else "old"


def canonical(kind: str, value: str) -> str:
    """The inventory's word for a corpus's word; ages may be years. Raises DataError that names the nearest known word."""
    simple = _simplify(value)
    found = _LOOKUP[kind].get(simple)
    if found is not None:
        return found
    if kind == "age" and re.fullmatch(r"\d+(\.\d+)?", simple):
        return age_from_years(float(simple))
    close = difflib.get_close_matches(simple, _LOOKUP[kind], n=1, cutoff=0.5)
    hint = f"nearest is {close[0]!r}; " if close else ""
    known = ", ".join(values(kind))
    raise DataError(f"unknown {kind} {value!r}; {hint}known are {known} and their aliases in text/tags.py", "unknown_label")


def render_labels(labels: Mapping[str, str]) -> str:
    """Canonical labels as tags in the fixed order age, gender, event, emotion, style: {"gender": "male"} -> "<MALE>"."""
    unknown = set(labels) - set(KINDS)
    if unknown:
        raise ValueError(f"no label kind {sorted(unknown)}; kinds are {', '.join(KINDS)}")
    return "".join(tag_text(kind, labels[kind]) for kind in KINDS if kind in labels)


def parse_labels(text: str, kinds: Collection[str] = KINDS) -> tuple[str, dict[str, str]]:
    """Split text that may carry tags anywhere into (transcript, {kind: value}).

    Meant for what a model wrote and for other toolkits' lists, so it never fails: case does not matter, the first tag of a kind wins,
    what is in brackets but no label of any kind stays in the transcript. A tag that could be of several kinds (OSUM's `<OTHER>`) counts
    only when `kinds` leaves exactly one of them open.
    """
    found: dict[str, str] = {}
    ambiguous: list[str] = []
    for match in _TAG.finditer(text):
        homes = _kinds_of(match.group(1))
        if len(homes) == 1 and homes[0] in kinds:
            found.setdefault(homes[0], _LOOKUP[homes[0]][_simplify(match.group(1))])
        elif len(homes) > 1:
            ambiguous.append(match.group(1))
    for name in ambiguous:
        homes = [kind for kind in _kinds_of(name) if kind in kinds and kind not in found]
        if len(homes) == 1:
            found[homes[0]] = _LOOKUP[homes[0]][_simplify(name)]
    return _without_labels(text), {kind: found[kind] for kind in KINDS if kind in found}


def _without_labels(text: str) -> str:
    """The words alone; of the spaces around a removed tag one stays."""
    marked, num_labels = "", 0
    for index, part in enumerate(_TAG_AS_WRITTEN.split(text)):
        is_label = index % 2 == 1 and _is_label(part[1:-1])
        num_labels += is_label
        marked += _HOLE if is_label else part
    if num_labels:
        marked = re.sub(f" *{_HOLE}[ {_HOLE}]*", lambda hole: " " if " " in hole.group(0) else "", marked)
    return marked.strip()


def _kinds_of(name: str) -> list[str]:
    return [kind for kind in KINDS if _simplify(name) in _LOOKUP[kind]]


def _is_label(name: str) -> bool:
    return bool(_kinds_of(name)) or _simplify(name) in _MISSING


def stray_tag(transcript: str) -> str | None:
    """A tag-like word (`<FOO>`) that `parse_labels` left in a transcript, or None: in a list it is a label we do not know."""
    match = re.search(r"<\s*[A-Z][A-Z_&]*\s*>", transcript)
    return match.group(0) if match else None


def render_words(words: Iterable[tuple[str, float, float]]) -> str:
    """Words with begin and end in seconds, to 0.1 s: "<0.3>hello<0.7><0.8>world<1.2>"."""
    parts = []
    for word, start, end in words:
        word = word.strip()
        if not word or "<" in word or ">" in word or not 0 <= start <= end:
            why = "it is empty, has brackets, or ends before it begins"
            raise DataError(f"cannot write the timed word {word!r} from {start} to {end} s: {why}", "bad_words")
        parts.append(f"<{start:.1f}>{word}<{end:.1f}>")
    return "".join(parts)


def parse_words(text: str) -> list[tuple[str, float, float]]:
    """The complete timed words of `text`, in order; anything malformed between them is passed over."""
    found = ((match.group(2).strip(), float(match.group(1)), float(match.group(3))) for match in _TIMED_WORD.finditer(text))
    return [(word, start, end) for word, start, end in found if word]


def join_words(words: Iterable[str]) -> str:
    """Words to a transcript: a space between them, but none between Chinese or Japanese characters."""
    text = ""
    for word in words:
        tight = not text or (_CJK.match(text[-1]) is not None and _CJK.match(word[0]) is not None)
        text += word if tight else f" {word}"
    return text


def split_reply(text: str) -> tuple[str, str | None]:
    """Transcript and reply around ANSWER_MARK; the reply is None when the mark does not occur."""
    transcript, mark, reply = text.partition(ANSWER_MARK)
    return transcript.strip(), reply.strip() if mark else None
