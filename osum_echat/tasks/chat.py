"""Layout of conversation: SYS history* question A [(think) reply]. A question is text (t2t) or audio (s2t, s2s), a reply text or text and
speech; in the tasks *_think a block stands before it (tasks/think.py).

Earlier turns are written exactly as they were when they were live, only not learned: the sequence of turn n + 1 begins with that of turn n,
so a session goes on with the key/value state it has (generate/session.py). An earlier reply without `speech_token` is written as text
alone. The words, labels and paragraph of an earlier block are those of the user's turn before it.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from osum_echat.errors import DataError
from osum_echat.tasks.sequence import SequenceBuilder
from osum_echat.tasks.speak import write_reply
from osum_echat.tasks.think import write_think
from osum_echat.tasks.understand import checked, note_transcript, where
from osum_echat.text import tags
from osum_echat.utterance import Turn, Utterance


def prompt(utt: Utterance, builder: SequenceBuilder, *, family: str, schedule: str, hears: bool, thinks: bool = False) -> None:
    """System prompt, earlier turns, the question, assistant header; `hears` says whether questions are audio."""
    template = builder.prompts.template
    builder.text(template.begin)
    builder.text(builder.prompts.system_prompt(family))
    builder.text(template.user)
    for number, (user, assistant) in enumerate(_exchanges(utt)):
        _earlier_question(utt, builder, user, hears, f"turn {2 * number} of 'history'")
        builder.text(template.assistant)
        if thinks:
            _earlier_think(utt, builder, user, f"turn {2 * number} of 'history'")
        form = schedule if assistant.speech_token else "text"
        of = f"turn {2 * number + 1} of 'history'"
        write_reply(utt, builder, form, assistant.txt, assistant.speech_token, learn=False, of=of)
        builder.text(template.next_user)
    _question(utt, builder, hears)
    builder.text(template.assistant)


def follow_up(utt: Utterance, builder: SequenceBuilder, *, hears: bool) -> None:
    """What a live turn adds behind the reply to the one before: user header, question, assistant header. `history` is not read."""
    builder.text(builder.prompts.template.next_user)
    _question(utt, builder, hears)
    builder.text(builder.prompts.template.assistant)


def answer(utt: Utterance, builder: SequenceBuilder, *, schedule: str, hears: bool, thinks: bool = False) -> None:
    """The think block if asked for, then the reply from the fields `txt` and `speech_token`.

    A `question` beside audio holds its words, for block and CTC branch.
    """
    if thinks:
        write_think(utt, builder)
    write_reply(utt, builder, schedule, utt.txt, utt.speech_token, learn=True, of="the reply")
    if hears:
        note_transcript(tags.parse_labels(checked(utt, (utt.question or "").strip()))[0], builder)


def _question(utt: Utterance, builder: SequenceBuilder, hears: bool) -> None:
    """The audio of the utterance, or its field `question`."""
    if hears:
        _audio(utt, builder, utt.waveform_S, "the utterance")
        return
    question = checked(utt, (utt.question or "").strip())
    if not question:
        raise DataError(f"{where(utt)}: no 'question' for a text conversation", "missing_question")
    builder.text(question)


def _earlier_question(utt: Utterance, builder: SequenceBuilder, turn: Turn, hears: bool, of: str) -> None:
    """Audio where the task hears and the turn has it, text otherwise: a live dialogue may have been typed in between."""
    text = checked(utt, (turn.txt or "").strip())
    if hears and (turn.waveform_S is not None or not text):
        _audio(utt, builder, turn.waveform_S, of)
    elif text:
        builder.text(text)
    else:
        raise DataError(f"{where(utt)}: {of} has no 'txt', and the task hears no audio", "missing_question")


def _earlier_think(utt: Utterance, builder: SequenceBuilder, turn: Turn, of: str) -> None:
    try:
        write_think(_as_live(utt, turn), builder, learn=False)
    except DataError as error:
        raise DataError(f"{of}: {error}", error.reason) from error


def _as_live(utt: Utterance, turn: Turn) -> Utterance:
    """The row as it was when this turn of the user was the question."""
    told = {name: getattr(turn, name) for name in ("gender", "age", "age_years", "emotion", "event", "think")}
    return replace(utt, question=turn.txt, **told)


def _audio(utt: Utterance, builder: SequenceBuilder, waveform_S: np.ndarray | None, of: str) -> None:
    if waveform_S is None:
        raise DataError(f"{where(utt)}: the task needs the user's audio, but {of} has none", "missing_audio")
    try:
        builder.audio(waveform_S)
    except DataError as error:
        raise DataError(f"{where(utt)}: {of}: {error}", error.reason) from error


def _exchanges(utt: Utterance) -> Iterator[tuple[Turn, Turn]]:
    """Earlier questions with their replies; anything but user and assistant by turns is an error."""
    roles = [turn.role for turn in utt.history]
    if len(roles) % 2 or roles != ["user", "assistant"] * (len(roles) // 2):
        expected = "user and assistant by turns, assistant last"
        raise DataError(f"{where(utt)}: 'history' must be {expected}; got {', '.join(roles)}", "bad_history")
    return zip(utt.history[::2], utt.history[1::2], strict=True)
