"""The builder writes ids and labels together; the picture shows what is learned."""

import numpy as np
import pytest

from osum_echat.audio.features import num_llm_frames
from osum_echat.errors import ConfigError, DataError
from osum_echat.tasks.sequence import SequenceBuilder, show
from osum_echat.text.prompts import load_prompts
from osum_echat.text.vocab import IGNORE, JointVocab


@pytest.fixture
def mini(tokenizer, vocab):
    return SequenceBuilder(tokenizer, vocab, load_prompts("mini"))


def test_ids_and_labels_of_every_piece(mini, tokenizer, vocab):
    wave = np.zeros(8000, np.float32)
    mini.text("the")
    mini.audio(wave)
    mini.text("on", learn=True)
    mini.eos(learn=True)
    mini.speech([3, 0, 63], learn=True)
    mini.speech([5])
    sequence = mini.build("k", "t")
    slots = num_llm_frames(8000)
    heard = [vocab.audio_begin, *[vocab.audio_slot] * slots, vocab.audio_end]
    learned = [*tokenizer.encode("on"), tokenizer.eos_id, vocab.boundary, *(vocab.text_size + code for code in (3, 0, 63)), vocab.boundary]
    rest = [vocab.boundary, vocab.text_size + 5, vocab.boundary]
    prefix = tokenizer.encode("the")
    assert slots > 2
    assert sequence.ids.tolist() == [*prefix, *heard, *learned, *rest]
    assert sequence.labels.tolist() == [IGNORE] * len(prefix + heard) + learned + [IGNORE] * 3
    assert sequence.ids.dtype == sequence.labels.dtype == sequence.ctc_ids.dtype == np.int64
    assert (len(sequence), sequence.num_supervised, sequence.num_slots) == (len(sequence.ids), len(learned), slots)
    (span,) = sequence.audio
    assert span.start == len(prefix) + 1 and span.num_slots == slots and span.waveform_S is wave
    assert set(sequence.ids[span.start : span.start + slots]) == {vocab.audio_slot}
    assert (sequence.key, sequence.task) == ("k", "t")


def test_build_empties_the_builder_and_ctc_is_no_position(mini, tokenizer):
    mini.text("open")
    mini.transcript("the door")
    first = mini.build("a", "t")
    assert first.ctc_ids.tolist() == list(b"the door")
    assert len(first) == len(tokenizer.encode("open"))
    second = mini.build("b", "t")
    assert len(second) == len(second.ctc_ids) == len(second.audio) == 0


def test_defects_are_named(mini, tokenizer, vocab):
    with pytest.raises(DataError, match="speech code 64") as caught:
        mini.speech([1, 64])
    assert caught.value.reason == "bad_speech_token"
    with pytest.raises(DataError, match="159 samples") as caught:
        mini.audio(np.zeros(159, np.float32))
    assert caught.value.reason == "empty_audio"
    with pytest.raises(ConfigError, match=r"model\.llm\.vocab_size"):
        SequenceBuilder(tokenizer, JointVocab(tokenizer.vocab_size - 1, 64), mini.prompts)


def test_show_marks_what_is_learned(mini, tokenizer, vocab):
    mini.text("open\n")
    mini.audio(np.zeros(8000, np.float32))
    mini.text("the door<SAD>", learn=True)
    mini.eos(learn=True)
    mini.speech([1, 2, 3], learn=True)
    picture = show(mini.build("k", "t"), tokenizer, vocab)
    assert picture.plain == f"open⏎[audio x{num_llm_frames(8000)}]the door<SAD><|im_end|>[sb][speech x3][sb]"
    green = "".join(picture.plain[span.start : span.end] for span in picture.spans if "green" in str(span.style))
    assert green == "the door<SAD><|im_end|>[sb][speech x3][sb]"
