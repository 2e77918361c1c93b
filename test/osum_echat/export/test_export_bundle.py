"""bundle.json says what the code does; a damaged bundle is refused with the reason; nothing half-written is left."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import osum_echat
from osum_echat.audio.features import LogMel, num_llm_frames
from osum_echat.errors import UserError
from osum_echat.export import bundle as bundle_module
from osum_echat.export import jit
from osum_echat.export.bundle import INFO, Bundle, file_hash, load_bundle, write
from osum_echat.generate.requests import RequestEncoder
from osum_echat.tasks.task import TASKS
from osum_echat.utterance import Utterance


@pytest.fixture
def copied(exported: tuple[Path, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported[0], tmp_path / "bundle"))


def filled(pieces: list[dict[str, Any]], slots: dict[str, list[int]]) -> list[int]:
    return [token for piece in pieces for token in piece.get("ids") or slots[piece["slot"]]]


@pytest.mark.parametrize("name", TASKS)
def test_prompts_in_pieces_are_the_prompts(name: str, bundle: Bundle) -> None:
    info, encoder = bundle.info, RequestEncoder(bundle.config, TASKS[name])
    task, tokenizer = info["tasks"][name], encoder.tokenizer
    question = Utterance("q", txt="the light", question="the light", emotion="sad", waveform_S=np.ones(9000, np.float32))
    slots = {
        "audio": [info["vocab"]["audio_slot"]] * num_llm_frames(9000),
        "text": tokenizer.encode("the light"),
        "emotion": info["tags"]["emotion"]["sad"]["ids"],
    }
    assert filled(task["prompt"], slots) == encoder.request(question).prompt.ids.tolist()
    if TASKS[name].follow_up:
        assert filled(task["follow_up"], slots) == encoder.follow_up(question, []).prompt.ids.tolist()
    else:
        assert task["follow_up"] is None


def test_fields_are_those_of_the_code(bundle: Bundle) -> None:
    info, encoder = bundle.info, RequestEncoder(bundle.config, TASKS["s2s_interleaved_think"])
    plan = encoder.plan()
    assert (info["format"], info["version"], info["torch"]) == (1, osum_echat.__version__, torch.__version__)
    assert info["tasks"]["s2s_interleaved"]["schedule"] == {"text": 6, "speech": 18}
    assert info["tasks"]["tts"]["schedule"] == {"text": 0, "speech": None}
    assert info["tokenizer"]["eos"] == info["text"]["end"] == plan.text.stop.end_id
    assert info["speech"]["end"] == plan.speech.stop.end_id == 8
    assert info["think"]["begin"] == list(plan.thinking.begin) and info["think"]["end"] == list(plan.thinking.end)
    assert info["token2wav"]["first_hop_tokens"] > info["token2wav"]["lookahead_tokens"]
    assert set(info["files"]) == {path.name for path in bundle.path.iterdir()} - {INFO}
    filters = np.fromfile(bundle.path / info["features"]["filters"]["file"], "<f4").reshape(info["features"]["filters"]["shape"])
    window = np.fromfile(bundle.path / info["features"]["window"]["file"], "<f4")
    np.testing.assert_array_equal(filters, LogMel(80).filters_KM.numpy())
    np.testing.assert_array_equal(window, LogMel(80).window.numpy())


def test_a_damaged_file_is_named_with_its_hash(copied: Path) -> None:
    content = bytearray((copied / "flow.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (copied / "flow.pt").write_bytes(content)
    with pytest.raises(UserError, match=rf"flow\.pt is damaged.*{file_hash(copied / 'flow.pt')}"):
        load_bundle(copied)


def broken_json(path: Path) -> None:
    (path / INFO).write_text((path / INFO).read_text()[:-20])


def other_format(path: Path) -> None:
    info = json.loads((path / INFO).read_text())
    (path / INFO).write_text(json.dumps({**info, "format": 99, "version": "7.0.0"}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: (path / "vad.pt").unlink(), "lacks vad.pt"),
        (lambda path: (path / INFO).unlink(), "is no bundle"),
        (broken_json, "cannot be read"),
        (other_format, rf"format 99 \(written by osum_echat 7\.0\.0\), this is osum_echat {osum_echat.__version__}"),
    ],
)
def test_a_bundle_that_does_not_fit_is_refused(change: Callable[[Path], None], reason: str, copied: Path) -> None:
    change(copied)
    with pytest.raises(UserError, match=reason):
        load_bundle(copied)


def test_a_file_that_is_no_torchscript(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"no")
    with pytest.raises(UserError, match=r"x\.pt: torch .* cannot read"):
        jit.load(tmp_path / "x.pt")


def test_nothing_is_left_of_a_bundle_that_fails_its_check(bundle: Bundle, copied: Path, tmp_path: Path) -> None:
    parts = {part: getattr(bundle, part) for part in bundle_module.PARTS}
    before = {path.name: file_hash(path) for path in copied.iterdir()}

    def differs(found: Bundle) -> None:
        assert found.path.name.endswith(".tmp")
        raise UserError("differs")

    for out in (copied, tmp_path / "new"):
        with pytest.raises(UserError, match="differs"):
            write(out, parts, {}, {"device": "cpu"}, differs)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert {path.name: file_hash(path) for path in copied.iterdir()} == before
    write(copied, parts, {"hello": b"you"}, {"device": "cpu"}, lambda found: None)  # an earlier bundle is replaced as a whole
    assert {path.name for path in copied.iterdir()} == {"hello", INFO, *(f"{part}.pt" for part in parts)}
    load_bundle(copied)


def test_a_folder_of_something_else_is_not_replaced(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is no bundle"):
        write(tmp_path, {}, {}, {}, lambda found: None)
    assert (tmp_path / "thesis.txt").exists()
