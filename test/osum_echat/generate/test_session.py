"""A dialogue: events while generating, turns whose ids are those of training, state that is reused, sound through a fake synthesiser."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import torch

from osum_echat.audio.io import write_wav
from osum_echat.config import RunConfig
from osum_echat.data.steps import SequenceEncoder
from osum_echat.errors import ConfigError, DataError
from osum_echat.generate.decoder import generate
from osum_echat.generate.requests import RequestEncoder
from osum_echat.generate.sampling import Sampler
from osum_echat.generate.session import AudioEvent, DialogueSession, EndEvent, Event, SpeechEvent, StageEvent, TextEvent, ThinkEvent
from osum_echat.generate.voice import Hops
from osum_echat.model.echat import EChat
from osum_echat.tasks.task import TASKS, THINKING
from osum_echat.utterance import Turn, Utterance

CHATS = [name for name, task in TASKS.items() if task.follow_up]
GREEDY = Sampler()
CODES = [np.random.default_rng(0).integers(0, 8, 41).tolist(), [7, 6, 5], [3, 3]]
TEXTS = ["open the door", "the light is on", "on"]
HEARD = {"age": "adult", "gender": "female", "event": "none", "emotion": "sad"}
THOUGHT = "is the light on<ADULT><FEMALE><NO_EVENT><SAD>"
BLOCK = ["is the light on", "<ADULT>", "<FEMALE>", "<NO_EVENT>", "<SAD>", "<think end>"]  # tokenized one by one, behind the begin mark


def question(turn: int, seconds: float = 0.6) -> Utterance:
    wave = np.random.default_rng(turn).normal(0, 0.1, int(16000 * seconds)).astype(np.float32)
    return Utterance(key=f"q{turn}", question="is the light on", waveform_S=wave, **HEARD)


class Scripted:
    """Replaces the heads of a model: they ask for given texts and codes, one after the other; the rest of the model is real."""

    def __init__(self, model: EChat, encoder: RequestEncoder) -> None:
        self.model = copy.deepcopy(model)
        eos, boundary = encoder.tokenizer.eos_id, encoder.vocab.id_to_code(encoder.vocab.boundary)
        block = [token for part in BLOCK for token in encoder.tokenizer.encode(part)] if encoder.task.thinks else []
        self.text = (token for text in TEXTS for token in [*block, *encoder.tokenizer.encode(text), eos])
        self.codes = (code for codes in CODES for code in [*codes, boundary])
        self.model.text_logits = lambda hidden_BD: self._say(self.text, 440)  # type: ignore[method-assign]
        self.model.speech_logits = lambda hidden_BD: self._say(self.codes, 9)  # type: ignore[method-assign]

    def _say(self, script: Iterator[int], size: int) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor([next(script)]), size).float()


def script_session(model: EChat, config: RunConfig, task: str, **options: object) -> DialogueSession:
    encoder = RequestEncoder(config, TASKS[task])
    plan = encoder.plan(GREEDY, GREEDY)
    return DialogueSession(Scripted(model, encoder).model, encoder, plan, **options)  # type: ignore[arg-type]


def training_ids(config: RunConfig, task: str, turns: int, first: int = 0) -> list[int]:
    """A whole dialogue as the training data path writes it."""
    history: list[Turn] = []
    for turn in range(first, turns - 1):
        asked = question(turn)
        history.append(Turn("user", txt=asked.question, waveform_S=asked.waveform_S, **HEARD))
        history.append(Turn("assistant", txt=TEXTS[turn], speech_token=tuple(CODES[turn])))
    last = replace(question(turns - 1), task=task, txt=TEXTS[turns - 1], speech_token=tuple(CODES[turns - 1]), history=tuple(history))
    model = config.model
    encoder = SequenceEncoder(config.tokenizer, "mini", model.speech.codebook_size, 80, model.llm.vocab_size, config.interleave)
    return encoder.sequence(last, None).ids.tolist()


@pytest.mark.parametrize("task", CHATS)
def test_every_turn_leaves_the_ids_of_training_and_begins_with_those_of_the_turn_before(
    model: EChat, run_config: RunConfig, task: str
) -> None:
    session, before = script_session(model, run_config, task), ()
    for turn in range(3):
        events = list(session.reply(question(turn)))
        assert session.ids[: len(before)] == before and len(session.ids) > len(before)
        assert list(session.ids) == training_ids(run_config, task, turn + 1)
        codes = tuple(CODES[turn]) if TASKS[task].max_speech else ()
        assert events[-1] == EndEvent(events[-1].seconds, TEXTS[turn], codes, True)
        assert "".join(event.text for event in events if isinstance(event, TextEvent)) == TEXTS[turn]
        assert tuple(event.code for event in events if isinstance(event, SpeechEvent)) == codes
        before = session.ids


@pytest.mark.parametrize("task", CHATS)
def test_a_reused_state_answers_as_a_fresh_one_that_reads_everything(model: EChat, run_config: RunConfig, task: str) -> None:
    session = script_session(model, run_config, task)
    list(session.reply(question(0)))
    list(session.reply(question(1)))
    session._model, asked = model, question(2)  # from here on the real heads
    session._plan = plan = session._encoder.plan(GREEDY, GREEDY, max_new=12, max_speech=30)
    end = list(session.reply(asked))[-1]
    history = [
        turn
        for at in range(2)
        for turn in (
            Turn("user", txt=question(at).question, waveform_S=question(at).waveform_S, **HEARD),
            Turn("assistant", txt=TEXTS[at], speech_token=tuple(CODES[at])),
        )
    ]
    request = RequestEncoder(run_config, TASKS[task]).request(replace(asked, history=tuple(history)))
    (fresh,) = generate(model, [request.prompt], request.mels, plan)
    assert isinstance(end, EndEvent) and end.codes == fresh.codes and session.ids[-len(fresh.layout) :] == fresh.layout
    assert session.ids[: -len(fresh.layout)] == tuple(request.prompt.ids.tolist())


def test_the_first_turn_is_what_the_batch_decoder_gives_also_when_sampled(model: EChat, run_config: RunConfig) -> None:
    encoder = RequestEncoder(run_config, TASKS["s2s_interleaved"])
    plan = encoder.plan(Sampler(temperature=2.0), Sampler(temperature=2.0, repeat_window=10), max_new=12, max_speech=30)
    session = DialogueSession(model, encoder, plan, seed=9)
    request = encoder.request(question(0))
    (expected,) = generate(model, [request.prompt], request.mels, plan, seed=9)
    for _ in range(2):
        assert list(session.reply(question(0)))[-1].codes == expected.codes  # type: ignore[union-attr]
        session.reset()
    list(session.reply(question(0)))
    assert list(session.reply(question(0)))[-1].codes != expected.codes  # type: ignore[union-attr]


class Echo:
    """Ten samples a code, each the code; keeps the last code back until flush, as a look-ahead does. The state is a value."""

    sample_rate = 250

    def __init__(self) -> None:
        self.pushes: list[list[int]] = []
        self.seeds: list[int] = []

    def init_state(self, seed: int) -> tuple[int, ...]:
        self.seeds.append(seed)
        self.pushes = []
        return ()

    def push(self, codes: list[int], state: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
        self.pushes.append(list(codes))
        known = [*state, *codes]
        return self._sound(known[:-1]), (known[-1],)

    def flush(self, state: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
        return self._sound(list(state)), ()

    def _sound(self, codes: list[int]) -> np.ndarray:
        return np.repeat(np.array(codes, dtype=np.float32), 10)


@pytest.mark.parametrize("task", ["tts", "s2s", "s2s_interleaved", "tts_interleaved"])
@pytest.mark.parametrize("hops", [Hops(), Hops(1, 1), Hops(5, 12), Hops(100, 3)])
def test_sound_comes_in_hops_and_is_complete(model: EChat, run_config: RunConfig, task: str, hops: Hops) -> None:
    echo = Echo()
    session = script_session(model, run_config, task, synthesizer=echo, hops=hops)
    for turn in range(3):
        events = list(session.reply(replace(question(turn), txt="the door")))
        codes = CODES[turn]
        sizes = [len(push) for push in echo.pushes]
        assert [code for push in echo.pushes for code in push] == codes
        assert sizes[0] == min(hops.first, len(codes)) and all(size == hops.later for size in sizes[1:-1]) and sizes[-1] > 0
        sound = np.concatenate([event.samples_S for event in events if isinstance(event, AudioEvent)])
        np.testing.assert_array_equal(sound, np.repeat(np.array(codes, dtype=np.float32), 10))
        assert {event.sample_rate for event in events if isinstance(event, AudioEvent)} == {250}
        assert isinstance(events[-1], EndEvent) and events[-1].finished
    assert len(set(echo.seeds)) == 3


def test_the_first_sound_comes_right_behind_its_last_code(model: EChat, run_config: RunConfig) -> None:
    events = list(script_session(model, run_config, "s2s_interleaved", synthesizer=Echo()).reply(question(0)))
    first = next(at for at, event in enumerate(events) if isinstance(event, AudioEvent))
    assert sum(isinstance(event, SpeechEvent) for event in events[:first]) == 18 and isinstance(events[first - 1], SpeechEvent)
    assert any(isinstance(event, TextEvent | SpeechEvent) for event in events[first + 1 :])  # while the answer goes on


def test_text_answers_have_no_sound(model: EChat, run_config: RunConfig) -> None:
    echo = Echo()
    events = list(script_session(model, run_config, "s2t", synthesizer=echo).reply(question(0)))
    assert not echo.seeds and {type(event) for event in events} == {StageEvent, TextEvent, EndEvent}


def test_an_empty_answer_is_legal(model: EChat, run_config: RunConfig) -> None:
    encoder = RequestEncoder(run_config, TASKS["tts"])
    session = DialogueSession(model, encoder, encoder.plan(max_speech=0), synthesizer=Echo())
    assert [type(event) for event in session.reply(Utterance("k", txt="the"))] == [StageEvent, StageEvent, EndEvent]


def test_times_count_from_the_request_and_never_go_back(model: EChat, run_config: RunConfig) -> None:
    ticks = count(100)
    session = script_session(model, run_config, "s2s", synthesizer=Echo(), clock=lambda: float(next(ticks)))
    answer = session.reply(question(0))
    next(ticks)  # the caller takes his time before he listens
    seconds = [event.seconds for event in answer]
    assert seconds[0] == 2.0 and seconds == sorted(seconds) and len(set(seconds)) == len(seconds)


@pytest.mark.parametrize("num_events", [1, 2, 3, 9, 30])
def test_an_answer_that_is_broken_off_stays_in_the_dialogue(model: EChat, run_config: RunConfig, num_events: int) -> None:
    session = script_session(model, run_config, "s2s_interleaved")
    answer = session.reply(question(0))
    heard: list[Event] = list(islice(answer, num_events))
    next_answer = session.reply(question(1))  # breaks it off
    first = session.ids
    assert list(answer) == [] and session.num_turns == (0 if num_events == 1 else 1)
    list(next_answer)
    assert session.ids[: len(first)] == first and session.num_turns == (1 if num_events == 1 else 2)
    if num_events > 1:
        vocab = session._encoder.vocab
        said = [vocab.id_to_code(token) for token in first if vocab.is_speech(token) and token != vocab.boundary]
        assert said == [event.code for event in heard if isinstance(event, SpeechEvent)]
        assert first[-1] == (vocab.boundary if vocab.boundary in first else session._encoder.tokenizer.eos_id)


def test_a_question_that_cannot_be_laid_out_leaves_the_dialogue_as_it_was(model: EChat, run_config: RunConfig) -> None:
    session = script_session(model, run_config, "s2s")
    list(session.reply(question(0)))
    before = session.ids
    with pytest.raises(DataError, match="q1"):
        list(session.reply(replace(question(1), waveform_S=np.zeros(100, np.float32))))
    assert session.ids == before and session.num_turns == 1
    list(session.reply(question(2)))
    assert session.ids[: len(before)] == before


def test_reading_aloud_starts_anew_every_time(model: EChat, run_config: RunConfig) -> None:
    session = script_session(model, run_config, "tts")
    for turn, text in enumerate(("the door", "the light")):
        list(session.reply(Utterance(f"k{turn}", txt=text)))
        request = session._encoder.request(Utterance("k", txt=text))
        assert session.ids[: len(request.prompt)] == tuple(request.prompt.ids.tolist()) and session.num_turns == 1


def test_hops_are_positive() -> None:
    with pytest.raises(ConfigError, match="later=0"):
        Hops(5, 0)


@pytest.mark.parametrize("task", THINKING.values())
def test_a_block_is_one_event_before_the_reply(model: EChat, run_config: RunConfig, task: str) -> None:
    session = script_session(model, run_config, task)
    for turn in range(2):
        events = list(session.reply(question(turn)))
        thoughts = [event for event in events if isinstance(event, ThinkEvent)]
        assert [(event.text, event.finished) for event in thoughts] == [(THOUGHT, True)]
        assert isinstance(events[2], ThinkEvent)  # behind the two stages
        assert "".join(event.text for event in events if isinstance(event, TextEvent)) == TEXTS[turn]


def test_an_endless_block_is_closed_and_said_so(model: EChat, run_config: RunConfig) -> None:
    encoder = RequestEncoder(run_config, TASKS["s2t_think"])
    session = DialogueSession(model, encoder, encoder.plan(max_new=5, max_think=4))  # random heads: no end in sight
    events = list(session.reply(question(0)))
    (thought,) = [event for event in events if isinstance(event, ThinkEvent)]
    assert not thought.finished and encoder.tokenizer.encode("<think end>")[0] in session.ids
    assert isinstance(events[-1], EndEvent) and "<think end>" not in events[-1].text


@pytest.mark.parametrize("task", CHATS)
def test_beyond_the_context_the_oldest_exchanges_are_forgotten(model: EChat, run_config: RunConfig, task: str) -> None:
    whole = script_session(model, run_config, task)
    lengths = []
    for turn in range(3):
        list(whole.reply(question(turn)))
        lengths.append(len(whole.ids))
    session = script_session(model, run_config, task, max_context=lengths[1])  # no room for a third question
    for turn in range(3):
        list(session.reply(question(turn)))
    assert session.num_forgotten == 1 and session.num_turns == 3
    assert list(session.ids) == training_ids(run_config, task, 3, first=1)


def test_a_question_alone_is_always_read(model: EChat, run_config: RunConfig) -> None:
    session = script_session(model, run_config, "s2t", max_context=1)
    for turn in range(3):
        list(session.reply(question(turn)))
        assert list(session.ids) == training_ids(run_config, "s2t", turn + 1, first=turn)
    assert session.num_forgotten == 2


def test_a_shortened_dialogue_is_answered_as_a_fresh_one(model: EChat, run_config: RunConfig) -> None:
    encoder = RequestEncoder(run_config, TASKS["s2s_interleaved"])
    plan = encoder.plan(GREEDY, GREEDY, max_new=12, max_speech=30)
    session = DialogueSession(model, encoder, plan, max_context=1)
    list(session.reply(question(0)))
    end = list(session.reply(question(1)))[-1]
    fresh = DialogueSession(model, encoder, plan)
    expected = list(fresh.reply(question(1)))[-1]
    assert isinstance(end, EndEvent) and isinstance(expected, EndEvent)
    assert (end.text, end.codes, session.ids) == (expected.text, expected.codes, fresh.ids)


def test_seconds_of_earlier_questions_do_not_count(model: EChat, run_config: RunConfig) -> None:
    """A dialogue may last longer than a question may; the file of an earlier question may be gone when it is read anew."""
    encoder = RequestEncoder(run_config, TASKS["s2t"], max_seconds=1.0)
    session = DialogueSession(model, encoder, encoder.plan(max_new=3), max_context=70)
    for turn in range(6):
        list(session.reply(question(turn)))
    assert session.num_turns == 6 and 0 < session.num_forgotten < 5  # some of 0.6 s each stay
    with pytest.raises(DataError, match=r"1\.2 s of audio, at most 1 are read"):
        list(session.reply(question(0, seconds=1.2)))


def test_a_question_that_is_dropped_at_once_forgets_nothing(model: EChat, run_config: RunConfig) -> None:
    session = script_session(model, run_config, "s2t", max_context=1)
    list(session.reply(question(0)))
    before = session.ids
    assert isinstance(next(iter(session.reply(question(1)))), StageEvent)  # only its features: nothing was read yet
    list(session.reply(question(2)))
    assert session.num_forgotten == 1 and session.num_turns == 2 and session.ids != before


def test_the_file_of_a_question_is_read_once(model: EChat, run_config: RunConfig, tmp_path: Path) -> None:
    session = script_session(model, run_config, "s2t", max_context=1000)
    path = tmp_path / "q.wav"
    write_wav(path, question(0).waveform_S, 16000)
    list(session.reply(replace(question(0), waveform_S=None, wav=str(path))))
    path.unlink()
    session._max_context = len(session.ids) + 1
    list(session.reply(question(1)))
    session._max_context = len(session.ids) + 1  # from the first question on
    list(session.reply(question(2)))
    assert session.num_turns == 3 and session.num_forgotten > 0
