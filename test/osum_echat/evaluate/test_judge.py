"""EChat-eval scores: rows, both judges, agreement, what results.json and the report say of them, emotion heard in replies."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from osum_echat.audio.io import write_wav
from osum_echat.config import SourceConfig
from osum_echat.config_judge import judge_config
from osum_echat.errors import DataError
from osum_echat.evaluate.decoded import read_decoded
from osum_echat.evaluate.judge import RULE_NOTE, EchatScore, judge_by_llm, judge_by_rules
from osum_echat.evaluate.judge_cache import AnswerCache
from osum_echat.evaluate.judge_client import ChatClient
from osum_echat.evaluate.judge_items import read_items, replies_of
from osum_echat.evaluate.judge_listen import classifier_of, hear_emotions
from osum_echat.evaluate.judge_llm import LlmJudge
from osum_echat.evaluate.judge_report import summary, write_judged
from osum_echat.evaluate.report import Report
from osum_echat.evaluate.report_scores_html import scores_section
from osum_echat.evaluate.results import markdown_table, merge_results, read_results, unit_of
from osum_echat.evaluate.score import read_references
from osum_echat.evaluate.spoken import Speech
from osum_echat.utterance import Utterance


def items_of(listing: Path, **options: Any) -> list[Any]:
    return read_items(read_references(SourceConfig(list=str(listing)))[0], **options)


def ask(endpoint: Any, listing: Path, decode: Path, replies: dict[str, str] | None = None, **options: Any) -> EchatScore:
    config = judge_config({"base_url": endpoint.url, "model": "m", "backoff_s": 0.001, "max_tries": 1, "max_concurrent": 1})
    with AnswerCache(decode / "c") as cache:
        judge = LlmJudge(config, ChatClient(config, sleep=lambda seconds: None), cache)
        return judge_by_llm(items_of(listing), replies or replies_of(read_decoded(decode)), judge, config, **options)


def test_rows_carry_their_task_and_labels(judges: ModuleType, tmp_path: Path) -> None:
    items = {item.key: item for item in items_of(judges.write_test_set(tmp_path)[0])}
    assert items["v0"].labels == {"event": "sneeze"}  # the inventory's word
    assert items["m0"].labels == {"age": "old", "gender": "female", "emotion": "worried", "event": "cough"}
    assert items["m0"].expect == (("cough",), ("water", "tea")) and items["m0"].question == "question m0"
    assert [item.key for item in items_of(tmp_path / "echat.list", tasks=["event", "age"])] == ["a0", "v0"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"extra": {}}, "expected extra.echat"),
        ({"extra": {"echat": {"task": "mood"}}}, "expected extra.echat"),
        ({"extra": {"echat": {"task": "emotion", "expct": []}}}, "expected extra.echat"),
        ({"extra": {"echat": {"task": "emotion", "expect": ["sorry"]}}}, "list of words"),
        ({"extra": {"echat": {"task": "emotion", "expect": [[]]}}}, "list of words"),
        ({"extra": {"echat": {"task": "emotion", "expect": "sorry"}}}, "list of lists"),
        ({"extra": {"echat": {"task": "emotion", "forbid": "great"}}}, "list of words"),
        ({"emotion": None}, "needs the label 'emotion'"),
        ({"emotion": "unknown"}, "needs the label 'emotion'"),
        ({"gender": "purple"}, "unknown gender"),
        ({"question": None}, "'question'"),
    ],
)
def test_rows_that_cannot_be_judged_are_errors_with_their_place(change: dict[str, Any], said: str) -> None:
    record = {"key": "k", "question": "q", "emotion": "sad", "extra": {"echat": {"task": "emotion", "expect": [["sorry"]]}}}
    with pytest.raises(DataError, match=f"f.list:3.*{said}"):
        read_items([Utterance.from_record({**record, **change}, "f.list:3")])


def test_keys_twice_and_lists_without_test_rows() -> None:
    row = Utterance("k", question="q", emotion="sad", extra={"echat": {"task": "emotion"}})
    with pytest.raises(DataError, match="k stands twice"):
        read_items([row, row])
    with pytest.raises(DataError, match="none of 1 rows"):
        read_items([row], ["age"])
    with pytest.raises(DataError, match="unknown task 'mood'"):
        read_items([row], ["mood"])


def test_rule_judge(judges: ModuleType, tmp_path: Path) -> None:
    listing, decode = judges.write_test_set(tmp_path)
    scored = judge_by_rules(items_of(listing), replies_of(read_decoded(decode)))
    results = scored.results()
    assert {key: (score.value, score.n) for key, score in results.items()} == {
        "echat.emotion": (50.0, 2),
        "echat.age": (100.0, 1),
        "echat.gender": (100.0, 1),
        "echat.event": (100.0, 1),
        "echat.multi": (100.0, 1),
    }
    emotion = results["echat.emotion"]
    assert emotion.lo == 0.0 and emotion.hi == 100.0  # two speakers, one right
    assert emotion.note == RULE_NOTE and "NOT comparable" in RULE_NOTE and "NOT" not in results["echat.event"].note
    assert set(scored.results("no_think")) == {f"echat.{name}.no_think" for name in ("emotion", "age", "gender", "event", "multi")}
    with pytest.raises(DataError, match="unknown variant"):
        scored.results("thinking")


def test_missing_replies_are_wrong_and_told(judges: ModuleType, tmp_path: Path) -> None:
    listing, _ = judges.write_test_set(tmp_path)
    scored = judge_by_rules(items_of(listing), {"a0": "  "})
    assert all(score.value == 0.0 for score in scored.results().values())
    assert "emotion: 2 of 2 replies are missing or empty" in "\n".join(summary(scored))
    nothing_expected = [Utterance("k", question="q", emotion="sad", extra={"echat": {"task": "emotion"}})]
    with pytest.raises(DataError, match="the rule judge needs"):
        judge_by_rules(read_items(nothing_expected), {})
    odd = [Utterance("k", question="q", event="rain", extra={"echat": {"task": "event"}})]
    with pytest.raises(DataError, match="no keywords for the event 'other'"):
        judge_by_rules(read_items(odd), {})


def test_a_think_block_must_not_reach_a_judge(judges: ModuleType, tmp_path: Path) -> None:
    _, decode = judges.write_test_set(tmp_path)
    (decode / "text").write_text("v0 <think>achoo<SNEEZE><think end>Good day.\nv1 <HAPPY> Hello<SAD>!\n")
    assert replies_of(read_decoded(decode)) == {"v0": "Good day.", "v1": "Hello!"}
    (decode / "text").write_text("v0 <think>achoo<think end><think>achoo<SNEEZE>\nv1 <think>a block that never ends\n")
    assert replies_of(read_decoded(decode)) == {"v0": "", "v1": ""}


def test_llm_judge_scores_twenty_times_the_mean(endpoint: Any, judges: ModuleType, tmp_path: Path) -> None:
    listing, decode = judges.write_test_set(tmp_path)
    said = {"question e0": "344", "question e1": "555", "question a0": "111", "question g0": "xxx2", "question m0": "234"}
    asked = dict.fromkeys(said, 0)

    def script(request: Any, number: int) -> object:
        question = request.item["user_said"]
        text = said[question][min(asked[question], len(said[question]) - 1)]
        asked[question] += 1
        return judges.Say(text)

    endpoint.script = script
    scored = ask(endpoint, listing, decode)
    emotion, gender = scored.tasks["emotion"], scored.tasks["gender"]
    assert emotion.points.value == pytest.approx(20 * (11 / 3 + 5) / 2) and emotion.points.num == 2
    assert emotion.points.lo == pytest.approx(20 * 11 / 3) and emotion.points.hi == pytest.approx(100)
    assert emotion.agreement is not None and emotion.agreement.exact.value == 0.5
    assert emotion.agreement.deviation.value == pytest.approx((4 / 9 + 0) / 2)  # |3 - 11/3| + 2 |4 - 11/3| over three, and 0
    assert gender.points.value == 40.0 and gender.failures == {"non_numeric": 1}  # xxx fails, then 2 and 2
    assert scored.results()["echat.event"].value == 100.0
    assert "question v0" not in asked and len(endpoint.requests) == 3 * 4 + 5
    assert "agrees with itself exactly on 50 %" in emotion.note and "LLM judge m" in emotion.note
    assert "gender: 1 ratings failed and are not scored: non_numeric 1" in "\n".join(summary(scored))
    assert scored.to_json()["models"] == {"judge-2026": 5}


def test_replies_without_any_rating_are_left_out_and_named(endpoint: Any, judges: ModuleType, tmp_path: Path) -> None:
    listing, decode = judges.write_test_set(tmp_path)
    endpoint.script = lambda request, number: judges.Say("hm" if request.item["user_said"] == "question e0" else "4")
    scored = ask(endpoint, listing, decode)
    emotion = scored.tasks["emotion"]
    assert (emotion.points.value, emotion.points.num, emotion.unscored) == (80.0, 1, ("e0",))
    assert "1 of 2 replies have no rating" in emotion.note and not scored.is_partial
    assert "NaN" not in json.dumps(scored.to_json())


def test_empty_replies_are_rated_lowest_without_asking(endpoint: Any, judges: ModuleType, tmp_path: Path) -> None:
    listing, decode = judges.write_test_set(tmp_path)
    scored = ask(endpoint, listing, decode, {"e0": "Hello"})
    assert scored.results()["echat.age"].value == 20.0 and scored.results()["echat.emotion"].value == pytest.approx(50.0)
    assert scored.results()["echat.event"].value == 0.0 and len(endpoint.requests) == 3
    assert scored.tasks["age"].agreement is None


def test_the_judge_is_told_what_the_task_needs(endpoint: Any, judges: ModuleType, tmp_path: Path) -> None:
    listing, decode = judges.write_test_set(tmp_path)
    ask(endpoint, listing, decode, reply_emotions={"m0": "sad"})
    told = {request.item["user_said"][-2:]: request.item for request in endpoint.requests}
    assert told["e0"] == {
        "user_said": "question e0",
        "user_emotion": "sad",
        "reply": "I am sorry to hear that.",
        "reply_emotion": "not known",
    }
    assert told["a0"] == {"user_age": "child", "user_said": "question a0", "reply": judges.REPLIES["a0"]}
    assert told["g0"]["user_gender"] == "male" and "user_age" not in told["g0"]
    assert told["m0"]["reply_emotion"] == "sad" and told["m0"]["user_sound_event"] == "cough" and told["m0"]["user_age"] == "old"


def test_files_say_who_judged(judges: ModuleType, tmp_path: Path) -> None:
    listing, decode = judges.write_test_set(tmp_path)
    scored = judge_by_rules(items_of(listing), replies_of(read_decoded(decode)))
    written = json.loads(write_judged(scored, decode, {"variant": ""}).read_text())
    assert (decode / "judge_rule.json").is_file() and written["partial"] is False and len(written["prompts"]["sha256"]) == 64
    assert written["tasks"]["emotion"]["unit"] == "speaker" and written["rows"][0]["why"] == "sorry"
    path = tmp_path / "results.json"
    path.write_text('{"rtf": {"value": 0.1, "n": 1, "lo": null, "hi": null}}')
    merge_results(path, scored.results("direct"))
    assert set(json.loads(path.read_text())["echat.age.direct"]) == {"value", "n", "lo", "hi", "note"}
    merged = merge_results(path, {})  # the note outlives the next merge
    assert merged == read_results(path) and merged["echat.age.direct"].note == RULE_NOTE
    table = markdown_table(merged)
    assert "| of 100 |" in table and table.count(RULE_NOTE) == 1 and "echat.age.direct, echat.emotion.direct" in table
    page = scores_section(Report("t", merged, (), (), ()))
    assert page.count("NOT comparable") == 4
    assert unit_of("echat.multi") == "of 100" and unit_of("echat.event.neither") == "%" == unit_of("understand.emotion")


def spoken_replies(folder: Path) -> tuple[Speech, Path]:
    """Two replies as sound, and a decode of them with the task emotion."""
    wavs = {}
    for key in ("m0", "e0"):
        wavs[key] = str(folder / f"{key}.wav")
        write_wav(Path(wavs[key]), np.zeros(800, dtype=np.float32))
    listing, felt = folder / "data.list", folder / "felt"
    listing.write_text("".join(json.dumps({"key": key, "wav": wav}) + "\n" for key, wav in wavs.items()))
    felt.mkdir()
    (felt / "text").write_text("m0 <SAD>\ne0\n")
    (felt / "labels.jsonl").write_text('{"key": "m0", "emotion": "sad"}\n{"key": "e0"}\n')
    (felt / "decode.json").write_text(json.dumps({"task": "emotion", "labels": ["emotion"], "list": str(listing), "data_type": "raw"}))
    return Speech(folder, wavs), felt


def test_emotion_of_replies_out_of_a_decode(tmp_path: Path) -> None:
    speech, felt = spoken_replies(tmp_path)
    classifier = classifier_of("decoded", felt)
    assert hear_emotions(speech, classifier) == {"m0": "sad"}
    assert classifier([speech.wavs["e0"], speech.wavs["m0"]]) == [None, "sad"]
    with pytest.raises(DataError, match="belongs together"):
        classifier(["elsewhere.wav"])
    info = json.loads((felt / "decode.json").read_text())
    (felt / "decode.json").write_text(json.dumps({**info, "labels": ["age"]}))
    with pytest.raises(DataError, match="notes no emotion"):
        classifier_of("decoded", felt)
    with pytest.raises(DataError, match="unknown emotion classifier"):
        classifier_of("guess", felt)


def test_any_function_can_be_the_classifier(tmp_path: Path) -> None:
    speech, _ = spoken_replies(tmp_path)
    assert hear_emotions(speech, lambda wavs: [Path(wav).stem for wav in wavs]) == {"m0": "m0", "e0": "e0"}
    with pytest.raises(DataError, match="gave 1 labels for 2"):
        hear_emotions(speech, lambda wavs: ["sad"])
