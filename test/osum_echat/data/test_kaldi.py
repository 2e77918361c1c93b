"""Kaldi directories: every table, and errors that name the line."""

from pathlib import Path

import pytest

from osum_echat.data.kaldi import read_kaldi, read_kaldi_dir, read_table
from osum_echat.errors import DataError


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("_scp", ".scp")).write_text(text, encoding="utf-8")
    return folder


def test_all_tables_meet_in_the_record(tmp_path: Path) -> None:
    write(
        tmp_path,
        wav_scp="u1 /d/a.wav\nu2\tsox in.wav -t wav - |\nu3 /d/x.ark:123\n",
        text="u1 hello there\nu2 再见\nu3\n",
        utt2spk="u1 spk\nu2 spk\n",
        utt2task="u1 asr_p\n",
        utt2age="u1 34\nu2 child\n",
        utt2emotion="u1 happy\n",
        utt2think="u1 a longer thought\n",
        ctm="u1 1 0.10 0.25 hello\nu1 1 0.40 0.20 there 0.9\n",
    )
    first, second, third = read_kaldi_dir(tmp_path)
    assert (first.key, first.wav, first.txt, first.task, first.speaker) == ("u1", "/d/a.wav", "hello there", "asr_p", "spk")
    assert (first.age_years, first.emotion, first.think) == (34.0, "happy", "a longer thought")
    assert first.words == (("hello", 0.1, 0.35), ("there", 0.4, 0.6))
    assert (second.wav, second.txt, second.age, second.task) == ("sox in.wav -t wav - |", "再见", "child", "asr")
    assert (third.wav, third.txt) == ("/d/x.ark:123", "")
    assert second.origin == f"{tmp_path}/wav.scp:2"


def test_segments_replace_recordings(tmp_path: Path) -> None:
    write(tmp_path, wav_scp="r /d/r.wav\n", segments="u1 r 0.5 1.75\nu2 r 2 -1\n", text="u1 a\n")
    first, second = read_kaldi_dir(tmp_path)
    assert (first.key, first.wav, first.start, first.end, first.txt) == ("u1", "/d/r.wav", 0.5, 1.75, "a")
    assert (second.start, second.end, second.txt) == (2.0, None, None)


def test_labels_are_read_only_when_asked(tmp_path: Path) -> None:
    write(tmp_path, wav_scp="u /d/a.wav\n", text="u a\n", utt2spk="u spk\n")
    (plain,) = read_kaldi(tmp_path / "wav.scp", tmp_path / "text")
    assert plain.speaker is None


@pytest.mark.parametrize(
    ("files", "where", "reason"),
    [
        ({"wav_scp": "u a.wav\nv b.wav\nu c.wav\n"}, "wav.scp:3", "duplicate_key"),
        ({"wav_scp": "u a.wav\nv\n"}, "wav.scp:2", "bad_table"),
        ({"wav_scp": "\n"}, "wav.scp", "empty_list"),
        ({"text": "u a\n"}, "wav.scp", "missing_list"),
        ({"wav_scp": "u a.wav\n", "text": "u a\nw b\n"}, "text:2", "missing_audio"),
        ({"wav_scp": "r a.wav\n", "segments": "u r 1.0 soon\n"}, "segments:1", "bad_table"),
        ({"wav_scp": "r a.wav\n", "segments": "u r 2.0 1.0\n"}, "segments:1", "bad_table"),
        ({"wav_scp": "r a.wav\n", "segments": "u q 1.0 2.0\n"}, "segments:1", "missing_audio"),
        ({"wav_scp": "u a.wav\n", "ctm": "u 1 0.1 0.2 a\nu 1 x 0.2 b\n"}, "ctm:2", "bad_table"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, files: dict[str, str], where: str, reason: str) -> None:
    write(tmp_path, **files)
    with pytest.raises(DataError, match=where) as caught:
        list(read_kaldi_dir(tmp_path))
    assert caught.value.reason == reason


def test_a_table_keeps_file_order(tmp_path: Path) -> None:
    write(tmp_path, text="b 2\na 1\n")
    assert [(key, entry.value) for key, entry in read_table(tmp_path / "text").items()] == [("b", "2"), ("a", "1")]
