"""A model that has learned a few sequences by heart says them again: what is trained is what is decoded, for every spoken task."""

import numpy as np
import pytest
import torch

from osum_echat.config import RunConfig
from osum_echat.data.batch import collate
from osum_echat.generate.decoder import generate
from osum_echat.generate.requests import RequestEncoder
from osum_echat.generate.sampling import Sampler
from osum_echat.losses import joint_cross_entropy
from osum_echat.model.build import build_model
from osum_echat.tasks.task import TASKS, encode
from osum_echat.utterance import Utterance

TEXTS = ["open the door", "the light is on and the door is open", "on"]


def utterances() -> list[Utterance]:
    rng = np.random.default_rng(0)
    waves = [np.sin(np.arange(6000) * rate).astype(np.float32) for rate in (0.05, 0.3, 1.0)]
    codes = [tuple(rng.integers(0, 8, size).tolist()) for size in (40, 61, 20)]
    return [Utterance(f"u{at}", txt=TEXTS[at], speech_token=codes[at], waveform_S=waves[at]) for at in range(3)]


@pytest.mark.parametrize("task", ["tts", "tts_interleaved", "s2s", "s2s_interleaved"])
def test_what_was_learned_by_heart_is_said(run_config: RunConfig, task: str) -> None:
    torch.manual_seed(0)
    llm = {**run_config.model.llm.model_dump(), "width": 64, "ffn_width": 128, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16}
    model = build_model(run_config.model.model_copy(update={"llm": type(run_config.model.llm).model_validate(llm)}))
    encoder = RequestEncoder(run_config, TASKS[task])
    requests = [encoder.request(utterance) for utterance in utterances()]
    sequences = [encode(utterance, TASKS[task], encoder._builder) for utterance in utterances()]
    mels = [mel for request in requests for mel in request.mels]
    batch = collate(sequences, mels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    for _ in range(250):
        head = model.head_weights()
        loss, count = joint_cross_entropy(model(batch).hidden_TD, batch.labels_T, head.text_VD, head.speech_CD, head.speech_bias_C)[:2]
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
        if loss / count < 0.01:
            break
    answers = generate(model.eval(), [request.prompt for request in requests], mels, encoder.plan(Sampler(), Sampler()))
    for answer, request, sequence, utterance in zip(answers, requests, sequences, utterances(), strict=True):
        assert answer.finished and answer.layout == tuple(sequence.ids[len(request.prompt) :].tolist())
        assert answer.codes == utterance.speech_token
        assert encoder.tokenizer.decode(answer.ids) == ("" if task == "tts" else utterance.txt)
