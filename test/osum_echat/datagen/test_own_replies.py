"""Replies of a thinking model become the replies of a list; whatever is not a whole answer is left out under its reason."""

import json
from pathlib import Path

import pytest

from osum_echat.bin import own_replies as command
from osum_echat.datagen.own_replies import own_replies
from osum_echat.errors import DataError
from osum_echat.utterance import Utterance

ANSWERS = {
    "a": ("<think>i am home<SAD><think end><SAD>i am sorry", [1, 2]),
    "b": ("<think>i am home<SAD><think end>", [1]),
    "c": ("<think>hm<think end>fine", []),
    "d": ("<think>hm<think end>too long", [3]),
}


def write_decode(folder: Path, task: str = "s2s_think") -> Path:
    folder.mkdir()
    (folder / "text").write_text("".join(f"{key} {text}\n" for key, (text, _) in ANSWERS.items()))
    (folder / "decode.json").write_text(json.dumps({"task": task, "cut_off": ["d"]}))
    lines = [json.dumps({"key": key, "task": task, "txt": "x", "speech_token": codes}) for key, (_, codes) in ANSWERS.items()]
    (folder / "hyp.list").write_text("\n".join(lines) + "\n")
    return folder


def rows() -> list[Utterance]:
    told = {"task": "s2s_think", "wav": "a.wav", "question": "i am home", "emotion": "sad", "txt": "the list's own", "speech_token": (9,)}
    return [Utterance(key, answer_wav="r.wav", **told) for key in "abcde"]  # type: ignore[arg-type]


def test_rows_say_what_the_model_said(tmp_path: Path) -> None:
    found = own_replies(rows(), write_decode(tmp_path / "d"))
    (row,) = found.rows
    assert (row.key, row.task, row.txt, row.speech_token, row.answer_wav) == ("a", "s2s", "<SAD>i am sorry", (1, 2), None)
    assert (row.question, row.emotion, row.wav) == ("i am home", "sad", "a.wav")
    assert found.left_out == {"no words": ["b"], "no codes": ["c"], "cut off": ["d"], "not decoded": ["e"]}


def test_replies_in_writing_need_no_codes(tmp_path: Path) -> None:
    found = own_replies(rows(), write_decode(tmp_path / "d", "s2t_think"))
    assert [(row.key, row.task, row.speech_token) for row in found.rows] == [("a", "s2t", None), ("c", "s2t", None)]


def test_a_decode_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="task 's2s'; expected the decode of one of s2t_think"):
        own_replies(rows(), write_decode(tmp_path / "d", "s2s"))


def test_the_command_says_what_it_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "train.list", tmp_path / "own.list"
    source.write_text("".join(row.to_json() + "\n" for row in rows()))
    args = ["own-replies", "--list", str(source), "--decoded", str(write_decode(tmp_path / "d")), "--out", str(out)]
    monkeypatch.setattr("sys.argv", args)
    assert command.main() == 0
    shown = capsys.readouterr().out
    assert "left out 1 rows: cut off (d)" in shown and "1 rows with replies of the model's own" in shown
    assert Utterance.from_json(out.read_text()).txt == "<SAD>i am sorry"
    source.write_text(rows()[4].to_json() + "\n")
    assert command.main() == 2
