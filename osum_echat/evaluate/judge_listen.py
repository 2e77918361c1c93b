"""The emotion heard in the speech of replies, which the judge is told: an interface any classifier fits behind.

The paper asks emotion2vec-large (arXiv:2508.09600, EChat-eval). Here the toolkit's own understanding model is the default, through files:

    osum-echat synthesize --list d/hyp.list --out d/speech ...
    osum-echat decode --task emotion --list d/speech/data.list --out d/felt ...

Another classifier is a row of CLASSIFIERS. Leaves out: how sure the classifier is.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from osum_echat.errors import DataError
from osum_echat.evaluate.decoded import read_decoded
from osum_echat.evaluate.spoken import Speech, check_keys
from osum_echat.generate.requests import read_rows
from osum_echat.utterance import Utterance


class SpeechEmotion(Protocol):
    """Hears emotion in recordings."""

    def __call__(self, wavs: Sequence[str]) -> list[str | None]:
        """A label for each wav file, in their order; None where none is heard. Labels are words such as "sad", of any inventory."""
        ...


class DecodedEmotion:
    """What a finished decode of the same wav files with the task `emotion` (or any that notes it) says.

    Raises:
        DataError: the folder holds no finished decode, names no list, or notes no emotion.
    """

    def __init__(self, folder: Path) -> None:
        decoded = read_decoded(folder)
        if decoded.source is None:
            raise DataError(f"{folder}/decode.json names no list; decode with osum-echat decode --task emotion", "bad_json")
        if not decoded.asks_for("emotion"):
            raise DataError(
                f"{folder}: the task {decoded.info.get('task')!r} notes no emotion; decode with --task emotion", "unknown_label"
            )
        self._folder = folder
        rows = [row for row in read_rows(decoded.source) if isinstance(row, Utterance) and row.wav]
        self._labels = {_place(row.wav): decoded.labels.get(row.key, {}).get("emotion") for row in rows if row.wav}

    def __call__(self, wavs: Sequence[str]) -> list[str | None]:
        """See SpeechEmotion; wav files of another list are an error."""
        places = [_place(wav) for wav in wavs]
        check_keys(self._folder, self._labels, places, "the synthesized speech")
        return [self._labels.get(place) for place in places]


def _place(wav: str) -> str:
    return str(Path(wav).resolve())


CLASSIFIERS: dict[str, Callable[[Path], SpeechEmotion]] = {"decoded": DecodedEmotion}
"""Name -> what makes a classifier from the path given beside it."""


def hear_emotions(speech: Speech, classifier: SpeechEmotion) -> dict[str, str]:
    """Emotion by key of all synthesized replies in which one was heard."""
    keys = list(speech.wavs)
    labels = classifier([speech.wavs[key] for key in keys])
    if len(labels) != len(keys):
        raise DataError(f"the emotion classifier gave {len(labels)} labels for {len(keys)} wav files", "bad_labels")
    return {key: label for key, label in zip(keys, labels, strict=True) if label}


def classifier_of(name: str, path: Path) -> SpeechEmotion:
    """The classifier of that name."""
    if name not in CLASSIFIERS:
        raise DataError(f"unknown emotion classifier {name!r}; expected one of {', '.join(CLASSIFIERS)}", "unknown_classifier")
    return CLASSIFIERS[name](path)


def known_to_judge(labels: Mapping[str, str], question: str, reply: str, reply_emotion: str | None) -> dict[str, str | None]:
    """The fields a prompt may show (judge_prompts.yaml names those each task shows)."""
    return {
        "user_said": question,
        "reply": reply,
        "reply_emotion": reply_emotion,
        "user_age": labels.get("age"),
        "user_gender": labels.get("gender"),
        "user_emotion": labels.get("emotion"),
        "user_sound_event": labels.get("event"),
    }
