"""The speech tokenizer through the one trainer: loss falls, exact resume, dev scores, warm start, what is refused."""

import json

import pytest
import torch
import yaml
from rich.console import Console

from osum_echat.bin import train
from osum_echat.config import load_config, load_run
from osum_echat.data.source import read_raw_list
from osum_echat.data.steps import TranscriptEncoder
from osum_echat.errors import ConfigError, DataError
from osum_echat.losses import ctc_loss
from osum_echat.train.assemble import assemble, load_speech_tokenizer, make_loaders, make_model
from osum_echat.train.checkpoint import RunDir, load_file
from osum_echat.train.engine import Engine
from osum_echat.train.metrics import read_metrics
from osum_echat.train.objective import SpeechTokenizerObjective, best_path
from osum_echat.train.preflight import preflight, worst_case_batch
from osum_echat.utterance import Utterance

FSQ = {"kind": "fsq", "codebook_size": 64, "levels": [4, 4, 4]}
VQ = {"kind": "vq", "codebook_size": 32}
TIMED = ("tokens_per_second", "data_wait", "seconds", "peak_memory_gb")


@pytest.fixture(scope="module")
def tokenizer_yaml(tiny_run, tmp_path_factory):
    """A tokenizer run over the beeps of ``tiny_run``."""
    values = yaml.safe_load((tiny_run / "tiny.yaml").read_text())
    values = {"data": values["data"], "train": values["train"]}
    values["model"] = {"arch": "speech_tokenizer", "encoder": {"width": 32, "num_layers": 2, "num_heads": 2, "ffn_width": 64}}
    values["model"] |= {"quantizer": FSQ, "num_layers_after": 1}
    values["train"] |= {"max_steps": 40, "save_every": 20, "eval_every": 20, "max_tokens": 100}
    path = tmp_path_factory.mktemp("config") / "tokenizer.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def call(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["train", *map(str, arguments)])
    return train.main()


def trainer_of(cfg, folder, resume=False):
    folder.mkdir(exist_ok=True)
    return assemble(cfg, RunDir(folder), Engine(torch.device("cpu")), Console(quiet=True), resume)


def losses_of(folder):
    rows = read_metrics(folder / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key not in TIMED} for row in rows if row["split"] in ("train", "dev")]


@pytest.mark.parametrize("quantizer", [FSQ, VQ])
def test_the_command_trains_it(tokenizer_yaml, tmp_path, monkeypatch, quantizer):
    arguments = [
        "--config",
        tokenizer_yaml,
        "--dir",
        tmp_path / "run",
        "--device",
        "cpu",
        "--set",
        f"model.quantizer={json.dumps(quantizer)}",
    ]
    assert call(monkeypatch, *arguments) == 0
    rows = losses_of(tmp_path / "run")
    losses = [row["loss"] for row in rows if row["split"] == "train"]
    dev = [row for row in rows if row["split"] == "dev" and row["task"] == "all"]
    assert sum(losses[-5:]) < 0.4 * sum(losses[:5]), losses
    texts = [row.txt for row in read_raw_list(load_run(tokenizer_yaml).data.dev[0].list)]
    assert dev[-1]["loss"] < dev[0]["loss"] and dev[-1]["tokens"] == len("".join(texts))
    model = load_speech_tokenizer(tmp_path / "run/train.yaml", tmp_path / "run/final.pt")
    assert not model.training and all(torch.equal(v, load_file(tmp_path / "run/final.pt")[k]) for k, v in model.state_dict().items())
    codes = model.encode_samples([torch.randn(16000) * 0.1])[0]
    assert len(codes) == 25 and 0 <= int(codes.min()) <= int(codes.max()) < model.quantizer.codebook_size


@pytest.mark.parametrize("quantizer", [FSQ, VQ])
def test_stopped_and_resumed_equals_uninterrupted(tokenizer_yaml, tmp_path, quantizer):
    sets = [f"model.quantizer={json.dumps(quantizer)}", "train.save_every=4", "train.eval_every=4"]
    whole = load_run(tokenizer_yaml, [*sets, "train.max_steps=8"])
    first = load_run(tokenizer_yaml, [*sets, "train.max_steps=4"])
    trainer_of(whole, tmp_path / "whole").run()
    trainer_of(first, tmp_path / "parts").run()
    resumed = trainer_of(whole, tmp_path / "parts", resume=True)
    preflight(resumed.model, resumed.objective, resumed.engine, worst_case_batch(whole))  # moves no codebook
    resumed.run()
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")
    one, two = (load_file(tmp_path / name / "step_8.pt") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_dev_scores_are_ctc_and_byte_errors(tokenizer_yaml):
    cfg = load_run(tokenizer_yaml)
    model = make_model(cfg, None, Console(quiet=True)).eval()
    batch = next(iter(make_loaders(cfg, Engine(torch.device("cpu")))("dev", 0, None)))
    assert len(batch.keys) > 2 and set(batch.tasks) == {"asr", "gender"}
    with torch.no_grad():
        scores = SpeechTokenizerObjective().scores(model, batch)
        output = model(batch.mel_BFM, batch.mel_lens_B.tolist())
        whole, count = ctc_loss(output.ctc_logits_EC, output.ctc_lens, batch.ctc_ids, batch.ctc_lens_B)
    torch.testing.assert_close(sum(score[0] for score in scores.values()), whole, rtol=1e-5, atol=1e-3)
    assert sum(int(score[2]) for score in scores.values()) == int(count) == len(batch.ctc_ids)
    assert all(score[1] < score[2] for score in scores.values()), "an untrained model makes errors"


def test_best_path_joins_and_drops_blanks():
    path = [1, 1, 3, 1, 2, 2, 3, 3, 0]
    logits = torch.nn.functional.one_hot(torch.tensor(path), 4).float()
    assert best_path(logits) == [1, 1, 2, 0]


def test_the_codebook_starts_in_the_data_and_counts_in_the_loss(tokenizer_yaml, tmp_path):
    """Every rank finds the same clusters, most of which are in use; a resumed run keeps what it has."""
    cfg = load_run(tokenizer_yaml, [f"model.quantizer={json.dumps(VQ)}", "train.max_steps=2", "train.save_every=2"])
    trainer = trainer_of(cfg, tmp_path / "run")
    start = trainer.model.quantizer.codebook_CD.detach().clone()
    assert torch.equal(trainer_of(cfg, tmp_path / "twin").model.quantizer.codebook_CD, start) and trainer.model.quantizer.is_started
    batch = next(iter(make_loaders(cfg, Engine(torch.device("cpu")))("dev", 0, None)))
    output = trainer.model(batch.mel_BFM, batch.mel_lens_B.tolist())
    assert len(output.codes_N.unique()) > 8
    ctc, count = ctc_loss(output.ctc_logits_EC, output.ctc_lens, batch.ctc_ids, batch.ctc_lens_B)
    sums = SpeechTokenizerObjective().losses(trainer.model, batch)
    torch.testing.assert_close(sums.ctc - ctc, output.codebook_loss * count, rtol=1e-3, atol=1e-2)
    assert float(sums.ce) == 0.0 and float(output.codebook_loss.detach()) > 0
    trainer.run()
    learnt = load_file(tmp_path / "run/final.pt")["quantizer.codebook_CD"]
    assert not torch.equal(learnt, start)
    assert torch.equal(trainer_of(cfg, tmp_path / "run", resume=True).model.quantizer.codebook_CD, learnt)


def test_a_codebook_larger_than_the_data_is_refused(tokenizer_yaml, tmp_path):
    cfg = load_run(tokenizer_yaml, ['model.quantizer={"kind": "vq", "codebook_size": 100000}'])
    with pytest.raises(DataError, match=r"the training lists give \d+ tokens, a codebook of 100000 needs as many at least"):
        trainer_of(cfg, tmp_path / "run")


def test_it_starts_from_the_encoder_of_a_language_model(tiny_run, tokenizer_yaml, tmp_path):
    echat = make_model(load_config(tiny_run / "tiny.yaml", ["seed=5"]), None, Console(quiet=True))
    torch.save(echat.state_dict(), tmp_path / "final.pt")
    own = ["quantizer"]
    cfg = load_run(tokenizer_yaml, [f"train.init_allow_missing={json.dumps(own)}"])
    model = make_model(cfg, str(tmp_path / "final.pt"), Console(quiet=True))
    weights = echat.encoder.state_dict()
    assert weights and all(torch.equal(value, weights[name]) for name, value in model.encoder.state_dict().items())
    assert torch.equal(model.ctc.weight, echat.ctc.weight)


@pytest.mark.parametrize(
    ("row", "message", "reason"),
    [
        (Utterance("a", txt="x"), "no audio to transcribe", "missing_audio"),
        (Utterance("a", txt="  ", waveform_S=torch.zeros(4000).numpy()), "needs the field 'txt'", "missing_label"),
    ],
)
def test_rows_that_cannot_be_used(row, message, reason):
    with pytest.raises(DataError, match=message) as caught:
        TranscriptEncoder(80).sequence(row, None)
    assert caught.value.reason == reason


def test_rows_without_transcript_are_counted(tiny_run, tokenizer_yaml, tmp_path):
    lines = (tiny_run / "dev.list").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    del rows[0]["txt"]
    rows[1] |= {"task": "t2t"}
    (tmp_path / "dev.list").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cfg = load_run(tokenizer_yaml, [f"data.dev.0.list={tmp_path / 'dev.list'}", "data.max_drop=1"])
    loader = make_loaders(cfg, Engine(torch.device("cpu")))("dev", 0, None)
    batches = list(loader)
    assert loader.drops == {"missing_label": {"asr": 1}, "missing_audio": {"t2t": 1}}
    assert sum(len(batch.keys) for batch in batches) == len(rows) - 2 and loader.tally.num_dropped == 2


def test_the_largest_batch_fills_the_budget(tokenizer_yaml):
    batch = worst_case_batch(load_run(tokenizer_yaml, ["train.max_tokens=500"]))
    assert batch.ids_T.numel() == 500 and batch.num_ctc > 100
    assert len(batch.audio_slots_T) > 0.9 * 500


def test_wrong_configurations_name_what_is_wrong(tiny_run, tokenizer_yaml, tmp_path):
    with pytest.raises(ConfigError, match=r"levels \[4, 4, 4\] give 64 codes, codebook_size is 512"):
        load_run(tokenizer_yaml, ["model.quantizer.codebook_size=512"])
    with pytest.raises(ConfigError, match=r"--set model.arch=vocoda: .*unknown model 'vocoda'; known are echat, speech_tokenizer"):
        load_run(tokenizer_yaml, ["model.arch=vocoda"])
    with pytest.raises(ConfigError, match=r"model.llm: unknown key; nearest valid key"):
        load_run(tokenizer_yaml, ["model.llm=3"])
    with pytest.raises(ConfigError, match=r"model\.arch is speech_tokenizer, expected echat"):
        load_config(tokenizer_yaml)
    with pytest.raises(ConfigError, match=r"model\.arch is echat, expected speech_tokenizer"):
        load_speech_tokenizer(tiny_run / "tiny.yaml", tmp_path / "none.pt")
